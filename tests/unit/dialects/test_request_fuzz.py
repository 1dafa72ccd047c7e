"""Whatever bytes come in, a parser gives a generation or one of our own 400s."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_contracts.wire.anthropic import MessagesRequest
from cortex_contracts.wire.embeddings import EmbeddingRequest
from cortex_contracts.wire.errors import InvalidRequest, openai_body
from cortex_contracts.wire.openai import ChatRequest, CompletionRequest
from cortex_contracts.wire.openai_formats import StructuredOutputs
from cortex_contracts.wire.rerank import RerankRequest
from cortex_contracts.wire.responses import ResponsesRequest
from cortex_dialects import unsupported
from cortex_dialects.anthropic import parse_count_tokens, parse_messages
from cortex_dialects.embeddings import parse_embeddings
from cortex_dialects.openai import parse_chat, parse_completion
from cortex_dialects.rerank import parse_rerank
from cortex_dialects.responses import parse_input_tokens, parse_responses
from cortex_dialects.tokens import parse_detokenize, parse_tokenize

Parser = Callable[[bytes], object]
PARSERS: list[Parser] = [
    parse_chat,
    parse_completion,
    parse_messages,
    parse_count_tokens,
    parse_responses,
    parse_input_tokens,
    parse_tokenize,
    parse_detokenize,
    parse_embeddings,
    parse_rerank,
]
SHAPES = (ChatRequest, CompletionRequest, MessagesRequest, ResponsesRequest, StructuredOutputs)
SHAPES = (*SHAPES, EmbeddingRequest, RerankRequest)
INSIDE = "role content type text tool_calls function arguments image_url source input id json_schema schema json name "
INSIDE += "call_id output summary format effort mode verbosity"
NAMES = sorted(
    set(INSIDE.split())
    | {name for shape in SHAPES for name in shape.model_fields}
    | {name for table in (unsupported.CHAT, unsupported.MESSAGES, unsupported.RESPONSES) for name in table}
)
WORDS = ["user", "assistant", "tool", "system", "text", "image", "image_url", "tool_use", "tool_result", "auto", "{}"]
WORDS += ["json_schema", "json_object", "required", "any", "function", "message", "input_text", "input_image"]
WORDS += ["function_call", "function_call_output", "reasoning", "reasoning_text", "item_reference", "allowed_tools"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 2, 10**400, *WORDS])
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=12,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"])}, optional={"content": VALUES}
    ),
    max_size=3,
)


@st.composite
def near_requests(draw: st.DrawFn) -> dict[str, Any]:
    """Requests that are right but for some fields."""
    request: dict[str, Any] = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]}
    request |= draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
    return request | ({"messages": draw(TURNS)} if draw(st.booleans()) else {})


def parse(parser: Parser, body: bytes) -> None:
    refused = None
    try:
        parser(body)
    except InvalidRequest as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
        assert refused.message
        openai_body(refused).model_dump_json().encode()


@pytest.mark.parametrize("parser", PARSERS)
@given(body=st.binary(max_size=80))
def test_any_bytes(parser, body):
    """Not UTF-8, not JSON, not an object."""
    parse(parser, body)


@pytest.mark.parametrize("parser", PARSERS)
@given(value=VALUES)
def test_any_json(parser, value):
    """Escaped lone surrogates, NaN and huge numbers among it."""
    parse(parser, json.dumps(value).encode())


@pytest.mark.parametrize("parser", PARSERS)
@given(request=near_requests())
def test_almost_any_request(parser, request):
    """Wrong types deep inside fields that exist."""
    parse(parser, json.dumps(request).encode())
    prompt = request.pop("messages")
    parse(parser, json.dumps(request | {"prompt": prompt}).encode())
    del request["max_tokens"]
    parse(parser, json.dumps({"input": prompt} | request).encode())


@given(request=near_requests())
def test_what_a_parser_accepts_can_be_encoded(request):
    """No lone surrogate gets as far as the tokenizer."""
    try:
        generation = parse_chat(json.dumps(request).encode())
    except InvalidRequest:
        return
    str(generation.prompts).encode()
