"""An OpenAI-only engine's answers as events, and from there in Anthropic's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_contracts.wire import errors
from cortex_dialects import sse
from cortex_dialects.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from cortex_dialects.generation import Generation, TextPrompt
from cortex_dialects.projectors import chat_projector, messages_projector
from cortex_dialects.translate import ChatStreamReader, chat_document_to_events, chat_error_to_error

GENERATION = Generation(model="m", prompts=(TextPrompt("x"),), include_usage=True, logprobs=1)
USAGE = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=1)
ANSWERS: list[list[Event]] = [
    [TextDelta(0, "Hé"), TextDelta(0, "llo 🙂"), Finished(0, "stop"), USAGE],
    [ReasoningDelta(0, "hm"), TextDelta(0, "x"), Finished(0, "length"), USAGE],
    [
        ToolCallDelta(0, 0, "", "c1", "f"),
        ToolCallDelta(0, 0, '{"a":1}'),
        ToolCallDelta(0, 1, "{}", "c2", "g"),
        Finished(0, "tool_calls"),
        USAGE,
    ],
    [
        TextDelta(0, "", (TokenLogprob("\ufffd", b"\xc3", -0.5, (TokenLogprob("\ufffd", b"\xc3", -0.5),)),)),
        TextDelta(0, "éx", (TokenLogprob("x", b"x", -1.0),)),
        Finished(0, "stop"),
        USAGE,
    ],
    [Finished(0, "stop"), USAGE],
]


def read(raw: bytes) -> list[Event]:
    reader = ChatStreamReader()
    return reader.feed(raw) + reader.end()


def streamed(events: list[Event]) -> bytes:
    projector = chat_projector(GENERATION, "r", 0)
    return projector.opening() + b"".join(map(projector.event, events)) + projector.closing()


def chunk(delta: dict[str, Any], **choice: Any) -> bytes:
    return sse.data(json.dumps({"choices": [{"index": 0, "delta": delta, **choice}]}))


def failure(events: list[Event]) -> errors.CortexError:
    assert isinstance(events[-1], Failed)
    return events[-1].error


@pytest.mark.parametrize("events", ANSWERS)
def test_a_chat_stream_reads_back_as_the_events_it_was_made_of(events):
    """What a projector writes, the reader reads."""
    assert read(streamed(events)) == events


@given(events=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(0, 900)))
def test_a_stream_may_be_cut_anywhere(events, cuts):
    """Inside UTF-8, inside `data:`, inside JSON (case S11)."""
    raw, reader, found, last = streamed(events), ChatStreamReader(), [], 0
    for cut in sorted(cuts):
        found += reader.feed(raw[last:cut])
        last = max(last, cut)
    assert found + reader.feed(raw[last:]) + reader.end() == events


@pytest.mark.parametrize("events", ANSWERS)
def test_a_chat_document_reads_back_as_the_same_answer(events):
    """So that both ways end in the same projector (case S9)."""
    document = chat_projector(GENERATION, "r", 0).document(events)
    again = chat_projector(GENERATION, "r", 0).document(chat_document_to_events(document))
    assert again == document


def test_vllms_own_words_are_understood():
    """`reasoning`, `stop_reason` as the stop string, usage on every chunk, comments between."""
    raw = (
        b": ping\n\n"
        + chunk({"role": "assistant", "content": ""})
        + chunk({"reasoning": "hm"})
        + sse.data('{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
        + chunk({"content": "x"}, finish_reason="stop", stop_reason="END")
        + sse.data('{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}')
        + sse.data("[DONE]")
    )
    assert read(raw) == [ReasoningDelta(0, "hm"), TextDelta(0, "x"), Finished(0, "stop", "END"), Usage(3, 4)]
    assert read(chunk({}, finish_reason="stop", stop_reason=128001) + sse.data("[DONE]"))[0] == Finished(0, "stop")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        chunk({"content": "x"}),
        chunk({"content": "x"}, finish_reason="stop"),
        chunk({"content": "x"}) + sse.data("[DONE]"),
        chunk({"content": "x"}) + b"data: [DONE]\n",
        chunk({"content": "x"}) + sse.data("nonsense"),
        chunk({"content": "x"}, finish_reason="abort") + sse.data("[DONE]"),
        chunk({"content": 5}) + sse.data("[DONE]"),
        sse.data('{"choices": 5}'),
        sse.data("[" * 100_000),
    ],
)
def test_a_stream_without_its_end_is_broken(raw):
    """No [DONE], or a [DONE] without a finish, or a chunk that is none: never a complete answer (case S6)."""
    events = read(raw)
    assert isinstance(failure(events), errors.UpstreamBroken)
    assert not any(isinstance(event, Usage) for event in events)


def test_an_error_inside_a_stream_is_its_last_event():
    """vLLM sends [DONE] after an error all the same (case S6)."""
    envelope = {"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}}
    raw = chunk({"content": "x"}) + sse.data(json.dumps(envelope)) + chunk({"content": "y"}) + sse.data("[DONE]")
    events = read(raw)
    assert events[0] == TextDelta(0, "x")
    assert len(events) == 2
    assert isinstance(failure(events), errors.UpstreamBroken)
    assert failure(events).message == "CUDA error"


def test_our_own_errors_keep_their_code_on_the_way_through():
    """An engine of ours behind a gateway of ours."""
    projector = chat_projector(GENERATION, "r", 0)
    assert type(failure(read(projector.failure(errors.GroupDied("rank 1"))))) is errors.GroupDied


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": "x"}}]}',
        b'{"error": "x"}',
        b"\xff",
    ],
)
def test_a_document_that_is_none_is_broken(body):
    """Such as an error that came with status 200."""
    assert isinstance(failure(chat_document_to_events(body)), errors.UpstreamBroken)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "bad n", "code": 400, "param": "n"}}, errors.InvalidRequest),
        (400, {"message": "maximum context length is 4096", "code": 400}, errors.ContextLengthExceeded),
        (400, {"error": {"message": "x", "code": "invalid_parameter"}}, errors.InvalidParameter),
        (401, {"error": {"message": "key"}}, errors.UpstreamBroken),
        (404, {"error": {"message": "no such model"}}, errors.ModelNotFound),
        (422, {"detail": "x"}, errors.InvalidRequest),
        (429, {"error": {"message": "slow down"}}, errors.QueueFull),
        (500, {"error": {"message": "boom"}}, errors.UpstreamBroken),
        (503, {"error": {"message": "later"}}, errors.Unavailable),
        (503, {"error": {"message": "x", "code": "model_recovering"}}, errors.ModelRecovering),
        (504, "gone", errors.UpstreamTimeout),
    ],
)
def test_an_engines_refusal_keeps_its_meaning(status, body, kind):
    """By our code where there is one, else by status (case W7)."""
    error = chat_error_to_error(status, json.dumps(body).encode(), None)
    assert type(error) is kind
    assert error.message


def test_retry_after_and_param_survive_translation():
    """A client that is told when to come back must be told the same in its own dialect (case W7)."""
    body = json.dumps({"error": {"message": "n", "param": "n"}}).encode()
    assert chat_error_to_error(503, body, "17").retry_after_s == 17
    assert chat_error_to_error(400, body, None).param == "n"
    assert chat_error_to_error(503, body, "Wed, 21 Oct 2026 07:28:00 GMT").retry_after_s == 5


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"\xff\xfe", b"[" * 100_000, b'"x"', b"null"])
def test_a_body_that_is_no_envelope_still_makes_an_error(body):
    """Proxies in between answer with what they like."""
    error = chat_error_to_error(502, body, None)
    assert type(error) is errors.UpstreamBroken
    assert len(error.message) < 600
    assert error.message


def test_an_openai_stream_comes_out_in_anthropics_words():
    """The gateway's whole way: reader, then projector (case W5)."""
    reader, projector = ChatStreamReader(), messages_projector(GENERATION, "r", 0, prompt_tokens=0)
    raw = projector.opening()
    raw += b"".join(map(projector.event, reader.feed(streamed(ANSWERS[2])) + reader.end())) + projector.closing()
    assert b'"partial_json":"{\\"a\\":1}"' in raw
    assert b'"stop_reason":"tool_use"' in raw
    assert b'"input_tokens":2,"cache_read_input_tokens":1,"output_tokens":4' in raw
    assert raw.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
