"""How a family of models writes its calls.

Owns: what a format is, and what several of them read alike. Does not own: the formats (a module each), or which is
whose (known.py). Called by: split.py, constraint.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cortex_contracts.wire.errors import InvalidJson
from cortex_dialects.generation import ToolUse
from cortex_dialects.json_body import parse_value
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.tool_calls.layout import Layout

# A whole string, or a bracket; a quote alone is one of a string that has not ended.
_JSON_PIECE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]"]', re.DOTALL)
_SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """What began like a call is none."""


@dataclass(frozen=True, slots=True)
class Call:
    """`arguments` is the JSON of an object."""

    name: str
    arguments: str


# Calls and where they end. None: more must come. Raises Malformed.
Parsed = tuple[list[Call], int]


def _openai_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`parse` takes text that begins with an opening, or with a bare call, and reads the calls at its beginning."""

    name: str
    openings: tuple[str, ...]
    parse: Callable[[str, ToolUse], Parsed | None]
    rules: Callable[[ToolUse, Lark], str]  # of a grammar; `calls` is what an answer is to be
    layout: Layout  # of what these rules allow
    markers: tuple[str, ...] = ()  # all of its texts that may be special tokens
    closers: tuple[str, ...] = ()  # what may follow a call, and says nothing
    bare: bool = False  # an answer that begins with { may be a call
    names_arguments: bool = False  # its rules allow no argument that a schema does not name
    new_id: Callable[[], str] = field(default=_openai_id)


def json_value(text: str, at: int, opening: str = "{") -> tuple[Any, int] | None:
    """The JSON value at `at` and its end. None: more must come. Raises Malformed."""
    if at >= len(text):
        return None
    if text[at] != opening:
        raise Malformed
    end = _json_end(text, at)
    if end is None:
        return None
    try:
        return parse_value(text[at:end]), end
    except InvalidJson as error:
        raise Malformed from error


def _json_end(text: str, at: int) -> int | None:
    depth = 0
    for piece in _JSON_PIECE.finditer(text, at):
        match piece.group():
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case '"':
                return None
        if depth == 0:
            return piece.end()
    return None


def after_space(text: str, at: int) -> int:
    """Where the white space at `at` ends."""
    found = _SPACE.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()


def expect(text: str, at: int, literal: str) -> int | None:
    """Where `literal`, which must be at `at`, ends. None: more must come. Raises Malformed."""
    if text.startswith(literal, at):
        return at + len(literal)
    if literal.startswith(text[at:]):
        return None
    raise Malformed


def call_of(value: Any) -> Call:
    """An object with name and arguments, as a call. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed
    arguments = value.get("arguments", value.get("parameters"))
    return named_call(value.get("name"), {} if arguments is None else arguments)


def named_call(name: object, arguments: object) -> Call:
    """Arguments may be an object, or its JSON in a string. Raises Malformed."""
    if isinstance(arguments, str):
        try:
            arguments = parse_value(arguments)
        except InvalidJson as error:
            raise Malformed from error
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise Malformed
    return Call(name, json.dumps(arguments, ensure_ascii=False))
