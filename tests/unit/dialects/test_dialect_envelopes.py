"""Which dialect a path speaks, and its errors and keep-alives."""

from __future__ import annotations

import json

import pytest

from cortex_contracts.wire.errors import InvalidParameter, QueueFull, UnsupportedParameter
from cortex_dialects.anthropic import parse_messages
from cortex_dialects.dialect import Dialect, dialect_of, envelope_event, error_body, error_event, keepalive
from cortex_dialects.sse import EventReader


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/v1/messages/", Dialect.ANTHROPIC),
        ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/v1/messagesfoo", Dialect.OPENAI),
        ("/v1/chat/completions", Dialect.OPENAI),
        ("/v1/responses", Dialect.RESPONSES),
        ("/v1/responses/resp_1/cancel", Dialect.RESPONSES),
        ("/v1/responsesfoo", Dialect.OPENAI),
        ("/v1/embeddings", Dialect.OPENAI),
        ("/nowhere", Dialect.OPENAI),
    ],
)
def test_only_messages_speak_anthropic(path, dialect):
    """An unknown path is answered in OpenAI's envelope."""
    assert dialect_of(path) is dialect


def test_a_path_of_one_dialect_alone_is_not_answered_as_a_header_says():
    """Some proxies send anthropic-version with everything."""
    assert dialect_of("/v1/responses", {"anthropic-version"}) is Dialect.RESPONSES
    assert dialect_of("/v1/models", {"anthropic-version"}) is Dialect.ANTHROPIC


def test_an_error_is_said_in_the_words_of_its_dialect():
    """The SDKs read `error.type` and `error.message`; the stable code is in both."""
    error = InvalidParameter("n: too many", param="n")
    assert json.loads(error_body(Dialect.OPENAI, error)) == {
        "error": {"message": "n: too many", "type": "invalid_request_error", "code": "invalid_parameter", "param": "n"}
    }
    assert error_body(Dialect.RESPONSES, error) == error_body(Dialect.OPENAI, error)
    assert json.loads(error_body(Dialect.ANTHROPIC, error)) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "n: too many", "code": "invalid_parameter"},
    }


def test_that_there_are_no_threads_is_said_as_anthropics_sdks_expect_it():
    """Their tool runners ask for a thread first, and go on without where the details say so; no other error has any."""

    def refusal(**more):
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}], **more}
        with pytest.raises(UnsupportedParameter) as refused:
            parse_messages(json.dumps(body).encode())
        return json.loads(error_body(Dialect.ANTHROPIC, refused.value))["error"]

    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert refusal(thread={"type": "create"})["details"] == details
    assert refusal(thread={"type": "continue", "previous_message_id": "msg_1"})["details"] == details
    assert "details" not in refusal(speed="fast")


def test_an_error_inside_a_stream_is_an_event_of_its_dialect():
    """OpenAI clients look for `error` in the data, Anthropic's for an event named error (case S6)."""
    (openai,) = EventReader().feed(error_event(Dialect.OPENAI, QueueFull("busy")))
    (anthropic,) = EventReader().feed(error_event(Dialect.ANTHROPIC, QueueFull("busy")))
    (response,) = EventReader().feed(error_event(Dialect.RESPONSES, InvalidParameter("n: 7", param="n"), 5))
    assert response.event == "error"
    told = json.loads(response.data)
    assert told.pop("error") == {
        "message": "n: 7",
        "type": "invalid_request_error",
        "code": "invalid_parameter",
        "param": "n",
    }
    assert told == {
        "type": "error",
        "code": "invalid_parameter",
        "message": "n: 7",
        "param": "n",
        "sequence_number": 5,
    }
    assert openai.event is None
    assert json.loads(openai.data)["error"]["code"] == "queue_full"
    assert anthropic.event == "error"
    assert json.loads(anthropic.data)["error"]["type"] == "overloaded_error"


def test_a_keepalive_is_a_comment_for_openai_and_a_ping_for_anthropic():
    """OpenAI's SDK fails on unknown events; Anthropic's knows ping (cases S3, S7)."""
    (openai,) = EventReader().feed(keepalive(Dialect.OPENAI))
    (anthropic,) = EventReader().feed(keepalive(Dialect.ANTHROPIC))
    assert openai.data is None
    assert (anthropic.event, json.loads(anthropic.data)) == ("ping", {"type": "ping"})


@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b'{"error": "oops"}', b'{"error": {}}', b"[" * 100_000])
def test_a_refusal_without_our_envelope_is_an_event_all_the_same(body):
    """What stands between a gateway and a neuron may answer anything."""
    (event,) = EventReader().feed(envelope_event(Dialect.RESPONSES, body, 2))
    told = json.loads(event.data)
    assert (told["code"], told["error"]["code"], told["sequence_number"]) == ("upstream_broken", "upstream_broken", 2)
