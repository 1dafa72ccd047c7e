"""Llama 3: {"name": …, "parameters": {…}}, the whole answer or behind <|python_tag|>; several with ; between.

A bare object is a call only if it names a tool that there is: an answer may be JSON, too.
"""

from __future__ import annotations

from cortex_dialects.generation import ToolUse
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.tool_calls.json_rules import alternatives, named
from cortex_neuron.text.tool_calls.layout import json_layout
from cortex_neuron.text.tool_calls.tool_format import (
    Malformed,
    Parsed,
    ToolFormat,
    after_space,
    call_of,
    json_value,
)

TAG = "<|python_tag|>"


def _parse(text: str, use: ToolUse) -> Parsed | None:
    tagged = text.startswith(TAG)
    found = json_value(text, after_space(text, len(TAG) if tagged else 0))
    if found is None:
        return None
    value, end = found
    call = call_of(value)
    if not tagged and all(call.name != tool.name for tool in use.tools):
        raise Malformed
    return [call], end


def _rules(use: ToolUse, _: Lark) -> str:
    """One call: these models were not taught to make several at once."""
    return "\n".join(["calls: tool", alternatives(use, named("parameters"))])


_LAYOUT = json_layout("parameters", "}")
LLAMA3_JSON = ToolFormat("llama3_json", (TAG,), _parse, _rules, _LAYOUT, markers=(TAG,), closers=(";",), bare=True)
