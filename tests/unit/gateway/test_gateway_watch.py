"""Streams as they pass by, cut anywhere."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_dialects.dialect import Dialect
from cortex_dialects.sse import EventReader
from cortex_gateway.forwarding.watch import Ending, StreamWatch

OPENAI = [
    b": keep-alive\n\n",
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{"content":"\\n\\n data: [DONE] wörld 🦙"}}]}\n\n'.encode(),
    b'data: {"choices":[{"index":0,"delta":{"content":"nothing that tells"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"nor here"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\"error\\" : cortex-usage {}"}}]}\n\n',
    b': cortex-usage {"completion_tokens": 3}\n\n',
    b"data: [DONE]\n\n",
]
ANTHROPIC = [
    b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","content_block":{"type":"text"}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"nothing that tells"}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"nor here"}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"an error, message_stop"}}\n\n',
    b': cortex-usage {"completion_tokens": 3}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
RESPONSES = [
    b'event: response.created\ndata: {"type":"response.created","response":{"output":[]},"sequence_number":0}\n\n',
    b": keep-alive\n\n",
    b'event: response.output_item.added\ndata: {"type":"response.output_item.added","item":{"type":"message"},'
    b'"sequence_number":1}\n\n',
    b'event: response.output_text.delta\ndata: {"delta":"nothing that tells","sequence_number":2}\n\n',
    b'event: response.output_text.delta\ndata: {"delta":"event: error \\"response\\":{","sequence_number":3}\n\n',
    b'event: response.output_text.delta\ndata: {"delta":"nor here","sequence_number":4}\n\n',
    b': cortex-usage {"completion_tokens": 3}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[]},"sequence_number":5}\n\n',
]
STREAMS = {Dialect.OPENAI: OPENAI, Dialect.ANTHROPIC: ANTHROPIC, Dialect.RESPONSES: RESPONSES}


def passed(watch: StreamWatch, stream: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    return b"".join(watch.feed(piece) for piece in pieces if piece) + watch.finish()


@given(
    dialect=st.sampled_from(list(Dialect)),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(0, 2000), max_size=40),
)
def test_everything_passes_but_the_usage_comment(dialect: Dialect, newline: bytes, cuts: list[int]) -> None:
    """Event for event, wherever it is cut and whatever ends its lines (S11)."""
    events = [event.replace(b"\n", newline) for event in STREAMS[dialect]]
    watch = StreamWatch(dialect)
    out = passed(watch, b"".join(events), cuts)
    expected = b"".join(event for event in events if not event.startswith(b": cortex-usage"))
    if newline != b"\r\n":  # a comment that is cut in its last CRLF leaves a blank line, which means nothing
        assert out == expected
    assert EventReader().feed(out) == EventReader().feed(expected)
    assert watch.ending is Ending.COMPLETE
    assert watch.usage == b'{"completion_tokens": 3}'
    assert watch.content_seen


@pytest.mark.parametrize(
    ("dialect", "event", "is_content"),
    [
        (Dialect.OPENAI, b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}', False),
        (Dialect.OPENAI, b'data: {"choices":[],"usage":{"total_tokens":1}}', False),
        (Dialect.OPENAI, b": keep-alive", False),
        (Dialect.OPENAI, b'data: {"choices":[{"delta":{"content":"x"}}]}', True),
        (Dialect.OPENAI, b'data: {"choices":[{"delta":{"reasoning_content":"x"}}]}', True),
        (Dialect.OPENAI, b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', True),
        (Dialect.OPENAI, b'data: {"choices":[{"text":"x"}]}', True),
        (Dialect.OPENAI, b'data: {"choices":7}', False),
        (Dialect.OPENAI, b"data: no json", False),
        (Dialect.ANTHROPIC, ANTHROPIC[0].strip(), False),
        (Dialect.ANTHROPIC, ANTHROPIC[1].strip(), False),
        (Dialect.ANTHROPIC, ANTHROPIC[2].strip(), False),
        (Dialect.ANTHROPIC, ANTHROPIC[3].strip(), True),
        (Dialect.ANTHROPIC, b'data: {"type":"content_block_start","content_block":{"type":"tool_use"}}', True),
        (Dialect.RESPONSES, RESPONSES[0].strip(), False),
        (Dialect.RESPONSES, RESPONSES[1].strip(), False),
        (Dialect.RESPONSES, RESPONSES[2].strip(), False),
        (Dialect.RESPONSES, RESPONSES[3].strip(), True),
        (Dialect.RESPONSES, b'event: response.reasoning_text.delta\ndata: {"delta":"x"}', True),
        (Dialect.RESPONSES, b'event: response.output_item.added\ndata: {"item":{"type":"function_call"}}', True),
    ],
)
def test_first_content_is_text_reasoning_or_a_tool_call(dialect: Dialect, event: bytes, is_content: bool) -> None:
    """Not the role, a ping, a comment or usage (M1)."""
    watch = StreamWatch(dialect)
    assert watch.feed(event + b"\n\n") == event + b"\n\n"
    assert watch.content_seen is is_content


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("after_content", [True, False])
def test_nothing_follows_an_error_event(dialect: Dialect, after_content: bool) -> None:
    """Some engines send [DONE] after an error; a client would take the answer for whole (S6)."""
    error = json.dumps({"type": "error", "error": {"message": "boom", "code": "group_died"}}).encode()
    name = b"" if dialect is Dialect.OPENAI else b"event: error\n"
    events = STREAMS[dialect][: 4 if after_content else 1]
    broken = b"".join([*events, name + b"data: " + error + b"\n\n"])
    watch = StreamWatch(dialect)
    assert watch.feed(broken + STREAMS[dialect][-1]) == broken
    assert (watch.ending, watch.error_code) == (Ending.FAILED, "group_died")
    assert watch.feed(STREAMS[dialect][-1]) == b""


def test_half_an_event_at_the_end_is_not_passed_on() -> None:
    """It would be broken JSON; what follows is the gateway's error event."""
    watch = StreamWatch(Dialect.OPENAI)
    assert watch.feed(OPENAI[2] + b'data: {"cho') == OPENAI[2]
    assert watch.finish() == b""
    assert watch.ending is Ending.OPEN


def test_a_last_done_without_its_blank_line_counts() -> None:
    """Some servers end so."""
    watch = StreamWatch(Dialect.OPENAI)
    assert watch.feed(OPENAI[2] + b"data: [DONE]\n") == OPENAI[2]
    assert b"[DONE]" in watch.finish()
    assert watch.ending is Ending.COMPLETE


def test_the_neurons_message_start_is_left_out_where_one_was_sent() -> None:
    """A client that was kept alive has had its own (S7)."""
    watch = StreamWatch(Dialect.ANTHROPIC, drop_start=True)
    assert watch.feed(b"".join(ANTHROPIC[:2])) == ANTHROPIC[1]


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_a_response_that_is_complete_or_was_cut_by_its_limit_has_ended_well(kind: str) -> None:
    """A response that max_output_tokens has cut is whole, as far as the stream goes."""
    watch = StreamWatch(Dialect.RESPONSES)
    watch.feed(b"".join(RESPONSES[:-1]) + RESPONSES[-1].replace(b"response.completed", kind.encode()))
    assert watch.ending is Ending.COMPLETE


def test_a_failed_response_ends_with_the_event_that_is_called_error() -> None:
    """What follows response.failed still goes on, for the SDK raises for that one (S6)."""
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{},"sequence_number":6}\n\n'
    error = b'event: error\ndata: {"type":"error","error":{"code":"group_died"},"sequence_number":7}\n\n'
    watch = StreamWatch(Dialect.RESPONSES)
    stream = b"".join(RESPONSES[:4])
    assert watch.feed(stream + failed + error + RESPONSES[-1]) == stream + failed + error
    assert (watch.ending, watch.error_code) == (Ending.FAILED, "group_died")


def test_the_event_that_a_gateway_adds_to_a_response_has_the_next_number() -> None:
    """Also after a keep-alive, and where nothing has come yet; what is held back does not count."""
    watch = StreamWatch(Dialect.RESPONSES)
    assert watch.next_number == 0
    watch.feed(b"".join(RESPONSES[:4]) + RESPONSES[4][:-1])
    assert watch.next_number == 3
    watch.feed(RESPONSES[4][-1:] + RESPONSES[1])
    assert watch.next_number == 4
