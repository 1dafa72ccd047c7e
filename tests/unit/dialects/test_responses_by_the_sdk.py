"""/v1/responses as OpenAI's own SDK describes it: every parameter it can send, every event and answer it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from openai.types.responses import Response, ResponseInputItemParam, ResponseStreamEvent, response_includable
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from openai.types.shared_params.reasoning import Reasoning
from pydantic import TypeAdapter

from cortex_contracts.wire.errors import InvalidRequest
from cortex_contracts.wire.responses import Includable, ReasoningConfig, ResponsesRequest
from cortex_dialects import unsupported
from cortex_dialects.responses import parse_responses
from cortex_dialects.sse import EventReader

GOLDEN = Path(__file__).parent / "golden"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def names_of(typed_dict: Any) -> set[str]:
    return typed_dict.__required_keys__ | typed_dict.__optional_keys__


def sent(file: Path) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in EventReader().feed(file.read_bytes()) if event.data]


def test_every_parameter_of_the_sdk_is_honoured_or_refused_by_name():
    """None is new to us, and so none is silently ignored (case W9)."""
    known = {name.partition(".")[0] for name in unsupported.RESPONSES} | set(ResponsesRequest.model_fields)
    assert names_of(ResponseCreateParamsNonStreaming) - known == set()
    assert names_of(Reasoning) - set(ReasoningConfig.model_fields) == set()
    assert set(get_args(response_includable.ResponseIncludable)) == set(get_args(Includable))


def test_no_parameter_is_both_honoured_and_refused():
    """A whole one, that is."""
    assert not set(unsupported.RESPONSES) & set(ResponsesRequest.model_fields)


@pytest.mark.parametrize("kind", get_args(ResponseInputItemParam), ids=lambda kind: kind.__name__)
def test_every_kind_of_item_of_the_sdk_is_read_left_out_or_refused(kind):
    """With every field that it may have: nothing ends in anything but an answer or a 400 that says where."""
    hints = get_type_hints(kind)
    types = [name for name in _literals(hints.get("type")) if isinstance(name, str)] or [None]
    for name in types:
        item = {**dict.fromkeys(names_of(kind), "x"), "type": name, "role": "user"}
        body = {"model": "m", "input": [{"role": "user", "content": "x"}, item]}
        refused = None
        try:
            parse_responses(json.dumps(body).encode())
        except InvalidRequest as error:
            refused = error
        assert refused is None or (refused.param or "").startswith("input[1]")


def _literals(hint: Any) -> list[Any]:
    """The values of all Literals in a type."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [value for part in get_args(hint) for value in _literals(part)]


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("responses.*.sse")), ids=lambda file: file.name)
def test_every_event_is_one_that_the_sdk_knows_with_all_its_fields(file):
    """The SDK itself does not look, but what is built on it does."""
    events = sent(file)
    assert events
    for event in events:
        assert EVENT.validate_python(event).type == event["type"]


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("responses.*.json")), ids=lambda file: file.name)
def test_an_answer_has_all_fields_that_the_sdk_knows(file):
    """And means the same to it."""
    said = json.loads(file.read_bytes())
    answer = Response.model_validate(said)
    assert answer.output_text == "".join(
        part["text"] for item in said["output"] if item["type"] == "message" for part in item["content"]
    )
