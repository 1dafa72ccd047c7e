"""Where a call's name and arguments stand in what a grammar lets a model write.

Owns: what of that formats have in common, and JSON that comes in pieces. Does not own: the formats' own words, or the
grammar's rules, which are the other side of the same (json_rules). Called by: the formats, bound_calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class Arguments(Protocol):
    """Reads one call's arguments. `ended` once they have all come."""

    ended: bool

    def push(self, text: str) -> tuple[str, str]:
        """What `text` adds to their JSON, and what of it is behind them: nothing while they have not ended."""


class JsonArguments:
    """An object that is written as the JSON it is."""

    def __init__(self, _: Mapping[str, Any]) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = self._escaped = False

    def push(self, text: str) -> tuple[str, str]:
        """See Arguments."""
        at = int(self._escaped)
        self._escaped = False
        while (found := (_IN_STRING if self._in_string else _STRUCTURE).search(text, at)) is not None:
            at = found.end()
            self._take(found[0])
            if self.ended:
                return text[:at], text[at:]
            if found[0] == "\\":
                self._escaped = at == len(text)  # whatever is escaped ends nothing
                at += 1
        return text, ""

    def _take(self, mark: str) -> None:
        if mark == '"':
            self._in_string = not self._in_string
        elif mark != "\\":
            self._depth += 1 if mark in "{[" else -1
            self.ended = self._depth == 0


@dataclass(frozen=True, slots=True)
class Layout:
    """`head` ends where the name is complete; its one group is the name, as it is written."""

    head: re.Pattern[str]
    between: str  # head and arguments
    tails: tuple[str, ...]  # what may follow the arguments and is nobody's
    name: Callable[[str], str] = str
    arguments: Callable[[Mapping[str, Any]], Arguments] = JsonArguments  # of a tool's schema


def json_layout(key: str, *tails: str) -> Layout:
    """Of calls that are an object with their name, and with their arguments under `key`."""
    return Layout(re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"),'), f' "{key}": ', tails, json.loads)


def plain_layout(before: str, behind: str, between: str, *tails: str) -> Layout:
    """Of calls whose name stands between the first two of these words."""
    return Layout(re.compile(f"{re.escape(before)}(.+?){re.escape(behind)}", re.DOTALL), between, tails)
