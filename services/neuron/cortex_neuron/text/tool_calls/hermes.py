"""Hermes, Qwen 2.5 and Qwen 3: <tool_call>{"name": …, "arguments": {…}}</tool_call>, one block a call."""

from __future__ import annotations

from cortex_dialects.generation import ToolUse
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.tool_calls.json_rules import alternatives, named, repeated
from cortex_neuron.text.tool_calls.layout import json_layout
from cortex_neuron.text.tool_calls.tool_format import Parsed, ToolFormat, after_space, call_of, expect, json_value

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def _parse(text: str, _: ToolUse) -> Parsed | None:
    found = json_value(text, after_space(text, len(OPEN)))
    if found is None:
        return None
    value, at = found
    call = call_of(value)
    end = expect(text, after_space(text, at), CLOSE)
    return None if end is None else ([call], end)


def _rules(use: ToolUse, lark: Lark) -> str:
    call = f'call: {lark.mark(OPEN)} "\\n" tool "\\n" {lark.mark(CLOSE)}'
    return "\n".join([repeated(use, '"\\n"'), call, alternatives(use, named("arguments"))])


_LAYOUT = json_layout("arguments", f"}}\n{CLOSE}\n")
HERMES = ToolFormat("hermes", (OPEN,), _parse, _rules, _LAYOUT, markers=(OPEN, CLOSE))
