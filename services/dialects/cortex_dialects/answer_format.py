"""What an answer's text must be: OpenAI's response_format, and vLLM's names for the same and more.

Owns: that only one of them is asked for. Does not own: whether a schema can be kept to (the neuron). Called by:
openai.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cortex_contracts.wire.errors import InvalidJson, InvalidParameter
from cortex_contracts.wire.openai import GenerationRequest
from cortex_contracts.wire.openai_formats import (
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
)
from cortex_dialects.generation import AnswerFormat
from cortex_dialects.json_body import parse_value

_OBJECT = {"type": "object"}


def answer_format(request: GenerationRequest) -> AnswerFormat | None:
    """None for any text. Raises InvalidParameter."""
    asked = list(_asked(request))
    if len(asked) > 1:
        places = " and ".join(one.place for one in asked[:2])
        raise InvalidParameter(f"{asked[1].place}: one form of answer at a time, not {places}", param=asked[1].place)
    return asked[0] if asked else None


def _asked(request: GenerationRequest) -> Iterator[AnswerFormat]:
    if request.response_format is not None:
        yield from _of_openai(request.response_format)
    yield from _spelled(
        "guided_", request.guided_json, request.guided_regex, request.guided_choice, request.guided_grammar
    )
    if (newer := request.structured_outputs) is not None:
        place = "structured_outputs."
        yield from _spelled(place, newer.json_, newer.regex, newer.choice, newer.grammar)
        if newer.json_object:
            yield AnswerFormat("json_schema", _OBJECT, f"{place}json_object")


def _of_openai(asked: ResponseFormat) -> Iterator[AnswerFormat]:
    if isinstance(asked, JsonObjectFormat):
        yield AnswerFormat("json_schema", _OBJECT, "response_format")
    if isinstance(asked, JsonSchemaFormat):
        schema = asked.json_schema.schema_
        yield AnswerFormat("json_schema", _OBJECT if schema is None else schema, "response_format.json_schema.schema")


def _spelled(
    place: str, schema: str | dict[str, Any] | None, regex: str | None, choice: list[str] | None, grammar: str | None
) -> Iterator[AnswerFormat]:
    """vLLM's four, whose names begin with `place` in either of its spellings."""
    if schema is not None:
        yield _json(schema, f"{place}json")
    if regex is not None:
        yield AnswerFormat("regex", regex, f"{place}regex")
    if choice is not None:
        yield AnswerFormat("choice", tuple(choice), f"{place}choice")
    if grammar is not None:
        yield AnswerFormat("grammar", grammar, f"{place}grammar")


def _json(schema: str | dict[str, Any], place: str) -> AnswerFormat:
    if isinstance(schema, str):
        try:
            value = parse_value(schema)
        except InvalidJson as error:
            words = error.message.replace("The body", "the text", 1)
            raise InvalidParameter(f"{place}: {words}", param=place) from error
        if not isinstance(value, dict):
            raise InvalidParameter(f"{place}: expected a JSON Schema, which is an object", param=place)
        schema = value
    return AnswerFormat("json_schema", schema, place)
