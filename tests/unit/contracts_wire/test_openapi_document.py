"""OpenAPI documents made from the wire shapes."""

from __future__ import annotations

import json
import re

from pydantic import BaseModel

from cortex_contracts.wire import event_streams
from cortex_contracts.wire.anthropic import CountTokensRequest, Message, MessagesRequest, TokenCount
from cortex_contracts.wire.errors import AnthropicErrorBody
from cortex_contracts.wire.openai import ChatCompletion, ChatRequest, Completion, CompletionRequest, ModelList
from cortex_contracts.wire.openapi import Route, document
from cortex_contracts.wire.responses import ResponsesRequest
from cortex_contracts.wire.responses_answer import Response

ROUTES = [
    Route("POST", "/v1/chat/completions", "Chat", ChatRequest, ChatCompletion, stream=event_streams.CHAT),
    Route("POST", "/v1/completions", "Complete", CompletionRequest, Completion, stream=event_streams.COMPLETION),
    Route("POST", "/v1/responses", "Respond", ResponsesRequest, Response, stream=event_streams.RESPONSES),
    Route(
        "POST",
        "/v1/messages",
        "Message",
        MessagesRequest,
        Message,
        error=AnthropicErrorBody,
        stream=event_streams.MESSAGES,
    ),
    Route("POST", "/v1/messages/count_tokens", "Count", CountTokensRequest, TokenCount, error=AnthropicErrorBody),
    Route("GET", "/v1/models", "Models", response=ModelList),
    Route("GET", "/models/{model_id}/endpoint", "Where"),
    Route("GET", "/metrics", "Metrics", media_type="text/plain"),
]
DOCUMENT = document("cortex", "1.0", ROUTES)


def test_every_reference_leads_somewhere():
    """Shapes of one name in two dialects do not overwrite each other."""
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert names <= set(DOCUMENT["components"]["schemas"])
    assert len({name for name in names if name.endswith("Usage")}) == 3  # of the dialects
    assert len({name for name in names if name.endswith("__Tool")}) == 2


def test_a_request_is_required_and_of_its_shape():
    """The document is made from the very shapes that validate."""
    operation = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    assert operation["requestBody"]["required"] is True
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    schema = DOCUMENT["components"]["schemas"]["ChatRequest"]
    assert schema["required"] == ["model", "messages"]
    assert schema["additionalProperties"] is False


def test_an_answer_may_be_a_document_or_a_stream():
    """Where the route streams."""
    answer = DOCUMENT["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
    assert set(answer) == {"application/json", "text/event-stream"}
    assert set(DOCUMENT["paths"]["/v1/models"]["get"]["responses"]["200"]["content"]) == {"application/json"}
    assert set(DOCUMENT["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}


def test_the_events_of_a_stream_are_declared():
    """What may stand in one, by dialect; of OpenAI's older ones with the word at their end."""
    streams = {
        path: operations["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]["properties"]["data"]
        for path, operations in DOCUMENT["paths"].items()
        if path in ("/v1/chat/completions", "/v1/messages")
    }
    assert streams["/v1/chat/completions"]["anyOf"][0] == {"const": "[DONE]"}
    shapes = [shape["$ref"] for shape in streams["/v1/messages"]["contentSchema"]["anyOf"]]
    assert "#/components/schemas/MessageStart" in shapes
    assert len(shapes) == len(event_streams.MESSAGES.shapes)


def test_errors_are_declared_in_the_envelope_of_the_dialect():
    """Every 4xx and 5xx (case W7)."""
    for path, operations in DOCUMENT["paths"].items():
        envelope = "AnthropicErrorBody" if path.startswith("/v1/messages") else "OpenAIErrorBody"
        for operation in operations.values():
            for status in ("4XX", "5XX"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith(f"/{envelope}")


def test_a_path_parameter_is_declared():
    """A model id, which may hold slashes."""
    (parameter,) = DOCUMENT["paths"]["/models/{model_id}/endpoint"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("model_id", "path", True)


def test_operations_have_names_of_their_own():
    """Client generators name methods by them."""
    names = [operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()]
    assert len(set(names)) == len(ROUTES)


def test_two_methods_of_one_path_stand_together():
    """One path item, two operations."""

    class Thing(BaseModel):
        x: int

    both = document("t", "1", [Route("GET", "/thing", "Get", response=Thing), Route("POST", "/thing", "Set", Thing)])
    assert set(both["paths"]["/thing"]) == {"get", "post"}
