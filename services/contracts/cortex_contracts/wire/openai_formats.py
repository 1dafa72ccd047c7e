"""What a chat or completion request may ask of its answer's form, and which tools it may have to call.

Owns: OpenAI's shapes, and vLLM's where OpenAI has none. Does not own: what they come to (cortex_dialects.answer_format,
cortex_dialects.tool_use). Called by: openai.py beside it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from cortex_contracts.wire.shape import Lenient, Shape, either

JsonSchema = dict[str, Any]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class NamedFunction(Lenient):
    name: Annotated[str, Field(min_length=1)]


class NamedToolChoice(Lenient):
    """This function is to be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Lenient):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolChoice], Field(min_length=1, fail_fast=True)]


class AllowedToolsChoice(Lenient):
    """Only these of the tools are offered."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _tool_choice_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "word"
    kind = value.get("type") if isinstance(value, dict) else None
    return "allowed" if kind == "allowed_tools" else "named" if isinstance(value, dict) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedToolChoice, Tag("named")]
    | Annotated[AllowedToolsChoice, Tag("allowed")],
    either("none, auto, required, a function or allowed_tools", _tool_choice_kind),
]


class TextFormat(Lenient):
    type: Literal["text"]


class JsonObjectFormat(Lenient):
    type: Literal["json_object"]


class NamedSchema(Lenient):
    """`strict` changes nothing: a schema is always kept to."""

    name: str
    description: str | None = None
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(Lenient):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _schema_kind(value: object) -> str | None:
    return "text" if isinstance(value, str) else "object" if isinstance(value, dict) else None


SchemaOrText = Annotated[
    Annotated[str, Tag("text")] | Annotated[JsonSchema, Tag("object")],
    either("a JSON Schema, or one as text", _schema_kind),
]
Pattern = Annotated[str, Field(min_length=1)]
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class StructuredOutputs(Shape):
    """vLLM's newer spelling of guided_*: one of these."""

    json_: Annotated[SchemaOrText | None, Field(alias="json")] = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None
