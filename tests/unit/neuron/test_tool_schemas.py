"""Schemas as tools have them, in forced calls and strict ones: recursion, unions, formats, patterns, maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from model_families import model

from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import ToolSchema, ToolUse
from cortex_neuron.text import constraint

TOOLS = json.loads((Path(__file__).parent / "tool_schemas.json").read_text())
EACH = pytest.mark.parametrize("tool", TOOLS, ids=[each["name"] for each in TOOLS])
EOS = 256
PLACE = "tools[0].function.parameters"


def use(tool: dict[str, Any], *, strict: bool = False) -> ToolUse:
    return ToolUse((ToolSchema(tool["name"], tool["schema"], PLACE, strict=strict),), forced=not strict)


def allows(family: str, asked: ToolUse, text: str) -> bool:
    language = model(family)
    binding = constraint.binding(language, (97,), None, asked, chat=True)
    assert binding is not None
    tokenizer = LLTokenizer(language.tokenizer.to_str(), n_vocab=language.vocab_size, eos_token=[EOS])
    matcher = LLMatcher(tokenizer, binding.grammar, log_level=0)
    tokens = language.tokenizer.encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def call(tool: dict[str, Any], arguments: Any) -> str:
    said = json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{tool["name"]}", "arguments": {said}}}\n</tool_call>'


@EACH
def test_the_examples_are_what_they_are_said_to_be(tool: dict[str, Any]) -> None:
    """By another validator, formats included."""
    validator = Draft202012Validator(tool["schema"], format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [validator.is_valid(each) for each in tool["valid"]] == [True] * 3
    assert [validator.is_valid(each) for each in tool["invalid"]] == [False] * 3


@EACH
@pytest.mark.parametrize("strict", [False, True], ids=["forced", "strict"])
def test_arguments_keep_to_their_schema(tool: dict[str, Any], strict: bool) -> None:
    """Whether the call is forced, or strict and the model's own idea."""
    asked = use(tool, strict=strict)
    assert [allows("hermes", asked, call(tool, each)) for each in tool["valid"]] == [True] * 3
    assert [allows("hermes", asked, call(tool, each)) for each in tool["invalid"]] == [False] * 3


def xml(tool: str, **arguments: str) -> str:
    lines = [f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items()]
    return f"<tool_call>\n<function={tool}>\n{''.join(lines)}</function>\n</tool_call>"


def strings(**shapes: dict[str, Any]) -> ToolUse:
    properties = {key: {"type": "string", **shape} for key, shape in shapes.items()}
    return use({"name": "f", "schema": {"type": "object", "properties": properties, "required": list(properties)}})


def test_qwens_strings_keep_to_values_and_lengths() -> None:
    """They are written as they are, without quotes."""
    asked = strings(a={"const": "x"}, b={"enum": ["y", "z"]}, c={"minLength": 2, "maxLength": 3}, d={})
    assert allows("qwen_xml", asked, xml("f", a="x", b="z", c="üü", d="line\n  line"))
    assert not allows("qwen_xml", asked, xml("f", a="y", b="z", c="üü", d=""))
    assert not allows("qwen_xml", asked, xml("f", a="x", b="x", c="üü", d=""))
    assert not allows("qwen_xml", asked, xml("f", a="x", b="y", c="ü", d=""))
    assert not allows("qwen_xml", asked, xml("f", a="x", b="y", c="üüüü", d=""))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"type": "string", "format": "uuid"}}}, "format of a"),
        ({"properties": {"a": {"type": "string", "pattern": "^a"}}}, "pattern of a"),
        ({"properties": {"a": {"type": "string", "maxLength": -1}}}, "minLength or maxLength of a"),
        ({"properties": {"a": False}}, "`false` of a"),
        ({"properties": {}, "required": ["a"]}, "`required`"),
        ({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}, "anyOf of all arguments"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, "$ref of all arguments"),
        ({"properties": {"a": {}}, "minProperties": 1}, "minProperties of all arguments"),
    ],
)
def test_what_qwens_xml_cannot_keep_to_is_refused(schema: dict[str, Any], words: str) -> None:
    """By keyword and argument, rather than taken and forgotten."""
    with pytest.raises(InvalidParameter) as refused:
        constraint.binding(model("qwen_xml"), (97,), None, use({"name": "f", "schema": schema}), chat=True)
    assert refused.value.param == PLACE
    assert words in refused.value.message
