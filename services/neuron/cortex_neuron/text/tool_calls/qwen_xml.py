"""Qwen3-Coder: <tool_call><function=name><parameter=key>value</parameter>…</function></tool_call>.

A value is text as it is where the tool's schema says string, and JSON where it says anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cortex_contracts.wire.errors import InvalidJson, InvalidParameter
from cortex_dialects.generation import ToolSchema, ToolUse
from cortex_dialects.json_body import parse_value
from cortex_neuron.text import lark as rule
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.tool_calls.hermes import CLOSE, OPEN
from cortex_neuron.text.tool_calls.json_rules import repeated
from cortex_neuron.text.tool_calls.layout import Layout
from cortex_neuron.text.tool_calls.tool_format import Parsed, ToolFormat, after_space, expect, named_call
from cortex_neuron.text.tool_calls.xml_arguments import (
    FUNCTION_END,
    PARAMETER_END,
    XmlArguments,
    is_text,
    parameter,
    property_of,
)

_FUNCTION = "<function="
_HEAD = re.compile(r"<function=([^>\n]+)>")
_END = re.compile(r"</function>\s*</tool_call>")
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
_DEFINITIONS = ("$defs", "definitions")
# Of all arguments together the format can say nothing, and of a text only its length.
_OF_ALL = (
    "$ref", "anyOf", "oneOf", "allOf", "const", "enum", "patternProperties", "minProperties", "maxProperties", "not",
    "if", "dependentRequired", "dependentSchemas", "propertyNames",
)  # fmt: skip
_OF_TEXT = ("$ref", "anyOf", "oneOf", "allOf", "format", "pattern", "not", "if")


def _parse(text: str, use: ToolUse) -> Parsed | None:
    start = after_space(text, len(OPEN))
    if expect(text, start, _FUNCTION) is None:
        return None
    end = _END.search(text, start)
    head = _HEAD.match(text, start)
    if end is None or head is None:
        return None
    name = head[1].strip()
    schema = next((tool.schema for tool in use.tools if tool.name == name), {})
    found = _PARAMETER.finditer(text, head.end(), end.start())
    arguments = {each[1].strip(): _value(_unwrapped(each[2]), schema, each[1].strip()) for each in found}
    return [named_call(name, arguments)], end.end()


def _unwrapped(value: str) -> str:
    """The value without the line breaks that the format puts around it."""
    return value.removeprefix("\n").removesuffix("\n")


def _value(text: str, schema: dict[str, Any], key: str) -> Any:
    if is_text(property_of(schema, key)):
        return text
    try:
        return parse_value(text)
    except InvalidJson:
        return text


def _rules(use: ToolUse, lark: Lark) -> str:
    tools = " | ".join(f"tool_{i}" for i in range(len(use.tools)))
    call = f'call: {lark.mark(OPEN)} "\\n" tool "\\n" {lark.mark(CLOSE)}'
    bodies = [line for i, tool in enumerate(use.tools) for line in _tool_rules(tool, i)]
    return "\n".join([repeated(use, '"\\n"'), call, f"tool: {tools}", *bodies])


def _tool_rules(tool: ToolSchema, index: int) -> Iterator[str]:
    properties, required = tool.schema.get("properties"), tool.schema.get("required")
    shapes = properties if isinstance(properties, dict) else {}
    if (reason := _unkept(tool.schema, shapes)) is not None:
        raise InvalidParameter(f"{tool.place}: this model's calls cannot be kept to {reason}", param=tool.place)
    parts = []
    for k, (key, shape) in enumerate(shapes.items()):
        name = f"value_{index}_{k}"
        needed = isinstance(required, list) and key in required
        parts.append(f"({rule.text(parameter(key))} {name}){'' if needed else '?'}")
        yield _value_rule(name, shape, tool.schema)
    head, end = rule.text(f"<function={tool.name}>\n"), rule.text(FUNCTION_END)
    yield f"tool_{index}: {head} {' '.join(parts)} {end}"


def _unkept(schema: dict[str, Any], shapes: dict[str, Any]) -> str | None:
    """The first keyword that the rules below have no place for."""
    if (keyword := next((each for each in _OF_ALL if each in schema), None)) is not None:
        return f"{keyword} of all arguments together"
    required = schema.get("required")
    if isinstance(required, list) and not all(isinstance(each, str) and each in shapes for each in required):
        return "`required` of what is not in `properties`"
    return next((f"{reason} of {key}" for key, shape in shapes.items() if (reason := _unkept_value(shape))), None)


def _unkept_value(shape: Any) -> str | None:
    if shape is False:
        return "`false`"
    if not is_text(shape):
        return None
    if not all(isinstance(shape.get(each, 0), int) and shape.get(each, 0) >= 0 for each in ("minLength", "maxLength")):
        return "minLength or maxLength"
    return next((each for each in _OF_TEXT if each in shape), None)


def _value_rule(name: str, shape: Any, schema: dict[str, Any]) -> str:
    end = rule.text(PARAMETER_END)
    if is_text(shape):
        texts = [shape["const"]] if "const" in shape else shape.get("enum")
        if isinstance(texts, list):
            return f"{name}: ({' | '.join(rule.text(each) for each in texts if isinstance(each, str))}) {end}"
        return f"{name}{rule.anything(PARAMETER_END, shape.get('minLength', 0), shape.get('maxLength'))}"
    whole = dict(shape) if isinstance(shape, dict) else {}
    whole |= {key: schema[key] for key in _DEFINITIONS if key in schema}
    return f"{name}: {rule.schema(whole)} {end}"


_LAYOUT = Layout(re.compile(f"{OPEN}\n<function=(.+?)>\n", re.DOTALL), "", (f"\n{CLOSE}\n",), arguments=XmlArguments)
QWEN_XML = ToolFormat("qwen_xml", (OPEN,), _parse, _rules, _LAYOUT, markers=(OPEN, CLOSE), names_arguments=True)
