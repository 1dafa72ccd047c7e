"""Mistral: [TOOL_CALLS] and a list of calls, or in newer models [TOOL_CALLS]name[ARGS]{…} for each.

Their templates refuse ids that are not nine letters or digits.
"""

from __future__ import annotations

import re
import secrets
import string

from cortex_dialects.generation import ToolUse
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.lark import text as quoted
from cortex_neuron.text.tool_calls.json_rules import alternatives, named, repeated
from cortex_neuron.text.tool_calls.layout import json_layout, plain_layout
from cortex_neuron.text.tool_calls.tool_format import (
    Malformed,
    Parsed,
    ToolFormat,
    after_space,
    call_of,
    json_value,
    named_call,
)

OPEN, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_HEAD = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?\s*")
_LONGEST_HEAD = 200
_ALPHABET = string.ascii_letters + string.digits


def _new_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


def _parse(text: str, _: ToolUse) -> Parsed | None:
    at = after_space(text, len(OPEN))
    return _list(text, at) if text.startswith("[", at) else _single(text, at)


def _list(text: str, at: int) -> Parsed | None:
    found = json_value(text, at, opening="[")
    if found is None:
        return None
    values, end = found
    if not values:
        raise Malformed
    return [call_of(value) for value in values], end


def _single(text: str, at: int) -> Parsed | None:
    start = text.find("{", at)
    if start < 0:
        if len(text) - at > _LONGEST_HEAD:
            raise Malformed
        return None
    head = _HEAD.fullmatch(text, at, start)
    if head is None:
        raise Malformed
    found = json_value(text, start)
    return None if found is None else ([named_call(head[1], found[0])], found[1])


def _list_rules(use: ToolUse, lark: Lark) -> str:
    several = '(", " tool)*' if use.parallel else ""
    calls = f'calls: {lark.mark(OPEN)} " "? "[" tool {several} "]"'
    return "\n".join([calls, alternatives(use, named("arguments"))])


def _single_rules(use: ToolUse, lark: Lark) -> str:
    def body(name: str, arguments: str) -> str:
        return f"{quoted(name)} {lark.mark(ARGS)} {arguments}"

    call = f"call: {lark.mark(OPEN)} tool"
    return "\n".join([repeated(use, ""), call, alternatives(use, body)])


_MARKERS = (OPEN, ARGS, CALL_ID)
_LIST = json_layout("arguments", "}, ", "}]")
_SINGLE = plain_layout(OPEN, ARGS, "", "")
MISTRAL = ToolFormat("mistral", (OPEN,), _parse, _list_rules, _LIST, markers=_MARKERS, new_id=_new_id)
MISTRAL_ARGS = ToolFormat("mistral_args", (OPEN,), _parse, _single_rules, _SINGLE, markers=_MARKERS, new_id=_new_id)
