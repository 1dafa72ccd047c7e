"""Grammars in the words of llguidance's Lark: pieces of rules, for one model's tokens.

Owns: how a text, a marker and a JSON Schema are written. Does not own: which rules there are. Called by: tool_calls,
constraint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# White space without end is how a model that has lost its way fills an answer: indentation is still possible.
_JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,40}"}


class Lark:
    """`tokens` are the ids of the texts that are tokens of their own: only as such can a grammar allow them."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens

    def mark(self, marker: str) -> str:
        """A marker, as one token where it is one."""
        token = self._tokens.get(marker)
        return text(marker) if token is None else f"<[{token}]>"


def text(words: str) -> str:
    """These words."""
    return json.dumps(words, ensure_ascii=False)


def anything(before: str, least: int = 0, most: int | None = None) -> str:
    """The attributes and body of a rule: any text of so many characters up to these words, which are part of it."""
    number = "*" if (least, most) == (0, None) else f"{{{least},{'' if most is None else most}}}"
    return f"[suffix={text(before)}]: /(?s:.{number})/"


def without(name: str, words: str) -> str:
    """A terminal of this name: any text that does not hold these words."""
    return f"{name}: /(?s:.*)/ & ~{name}_NOT\n{name}_NOT: /(?s:.*)/ {text(words)} /(?s:.*)/"


def schema(shape: Mapping[str, Any]) -> str:
    """JSON of this schema."""
    return f"%json {json.dumps(with_options(shape))}"


def with_options(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, with what llguidance is to make of it."""
    return {**shape, "x-guidance": _JSON_OPTIONS}
