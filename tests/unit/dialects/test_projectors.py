"""One event list, four outputs a dialect: streamed and whole, good and broken."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from cortex_contracts.wire.errors import EngineFailed, GroupDied
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
from cortex_dialects.projectors import (
    Projector,
    chat_projector,
    completion_projector,
    messages_projector,
    responses_projector,
)
from cortex_dialects.projectors.frame import MARK
from cortex_dialects.sse import EventReader, ServerSentEvent

HM_SIGNATURE = base64.b64encode(hashlib.sha256(b"hm").digest()).decode()
CREATED = 1_700_000_000
USAGE = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=1)
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=5)
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def generation(**fields: Any) -> Generation:
    return Generation(**({"model": "org/m:1", "prompts": (TextPrompt("x"),)} | fields))


def chat(**fields: Any) -> Projector:
    return chat_projector(generation(**fields), "r1", CREATED)


def completion(**fields: Any) -> Projector:
    return completion_projector(generation(**fields), "r1", CREATED)


def messages(**fields: Any) -> Projector:
    return messages_projector(generation(**fields), "r1", CREATED, prompt_tokens=3)


def responses(**fields: Any) -> Projector:
    return responses_projector(generation(**fields), "r1", CREATED)


EVERY = pytest.mark.parametrize("make", [chat, completion, messages, responses])


def stream(projector: Projector, events: Sequence[Event]) -> list[ServerSentEvent]:
    """A whole stream, read back."""
    raw = projector.opening() + b"".join(map(projector.event, events)) + projector.closing()
    return EventReader().feed(raw)


def openai_chunks(projector: Projector, events: Sequence[Event]) -> list[dict[str, Any]]:
    """The chunks of a stream that ends well."""
    *chunks, done = stream(projector, events)
    assert done.data == "[DONE]"
    return [json.loads(chunk.data or "") for chunk in chunks]


def named_events(projector: Projector, events: Sequence[Event]) -> list[dict[str, Any]]:
    """The events of a stream, each named as its type."""
    sent = stream(projector, events)
    decoded = [json.loads(event.data or "") for event in sent]
    assert [event.event for event in sent] == [event["type"] for event in decoded]
    return decoded


def text(*words: str, index: int = 0) -> list[Event]:
    return [*(TextDelta(index, word) for word in words), Finished(index, "stop"), USAGE]


# --- OpenAI chat


def test_a_chat_stream_is_role_then_text_then_the_reason():
    """And every chunk is one that the SDK knows."""
    chunks = openai_chunks(chat(), text("Hel", 'lo "\n🙂'))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": 'lo "\n🙂'},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    for chunk in chunks:
        parsed = ChatCompletionChunk.model_validate(chunk)
        assert (parsed.id, parsed.created, parsed.model) == ("chatcmpl-r1", CREATED, "org/m:1")


def test_usage_comes_last_and_without_choices_when_it_is_asked_for():
    """`choices: []` with usage, and only with include_usage (case S5)."""
    last = openai_chunks(chat(include_usage=True), text("x"))[-1]
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert all("usage" not in chunk for chunk in openai_chunks(chat(), text("x")))
    assert openai_chunks(completion(include_usage=True), text("x"))[-1]["usage"] == last["usage"]


def test_reasoning_goes_out_as_reasoning():
    """As it comes, so that idle timers see events, and never as content (case S4)."""
    events: list[Event] = [ReasoningDelta(0, "hm"), ReasoningDelta(0, "?"), *text("yes")]
    deltas = [chunk["choices"][0]["delta"] for chunk in openai_chunks(chat(), events)]
    assert deltas[1:4] == [{"reasoning_content": "hm"}, {"reasoning_content": "?"}, {"content": "yes"}]
    answer = json.loads(chat().document(events))["choices"][0]["message"]
    assert (answer["reasoning_content"], answer["content"]) == ("hm?", "yes")


TOOL_EVENTS: list[Event] = [
    TextDelta(0, "see"),
    ToolCallDelta(0, 0, id="c1", name="f"),
    ToolCallDelta(0, 0, '{"a":'),
    ToolCallDelta(0, 0, "1}"),
    ToolCallDelta(0, 1, "{}", id="c2", name="g"),
    Finished(0, "tool_calls"),
    USAGE,
]


def test_tool_calls_are_streamed_in_pieces_and_whole_in_a_document():
    """The first piece of a call carries its id, type and name."""
    deltas = [chunk["choices"][0]["delta"] for chunk in openai_chunks(chat(), TOOL_EVENTS)]
    assert deltas[2]["tool_calls"] == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    assert deltas[3]["tool_calls"] == [{"index": 0, "function": {"arguments": '{"a":'}}]
    answer = ChatCompletion.model_validate_json(chat().document(TOOL_EVENTS)).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content == "see"
    assert [call.model_dump() for call in answer.message.tool_calls or ()] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_an_answer_of_tool_calls_alone_has_null_content():
    """As OpenAI has it; an empty answer without calls is an empty string."""
    answer = json.loads(chat().document(TOOL_EVENTS[1:]))["choices"][0]["message"]
    assert answer["content"] is None
    assert json.loads(chat().document(text()))["choices"][0]["message"] == {"role": "assistant", "content": ""}


def token(word: str, logprob: float, *top: tuple[str, float]) -> TokenLogprob:
    return TokenLogprob(word, word.encode(), logprob, tuple(TokenLogprob(t, t.encode(), p) for t, p in top))


LOGPROB_EVENTS: list[Event] = [
    TextDelta(0, "", (token("ré", -0.5, ("ré", -0.5), ("no", -math.inf)),), (7,)),
    TextDelta(0, "réx", (token("x", -1.0, ("x", -1.0)),), (8,)),
    Finished(0, "length"),
    USAGE,
]


def test_chat_logprobs_are_the_same_streamed_and_whole():
    """With bytes, and -9999 where a probability is zero, which JSON cannot say as a logarithm (case S9)."""
    chunks = openai_chunks(chat(logprobs=2), LOGPROB_EVENTS)
    streamed = [item for chunk in chunks if (part := chunk["choices"][0]["logprobs"]) for item in part["content"]]
    document = ChatCompletion.model_validate_json(chat(logprobs=2).document(LOGPROB_EVENTS))
    assert streamed == document.model_dump()["choices"][0]["logprobs"]["content"]
    assert streamed[0]["bytes"] == [0x72, 0xC3, 0xA9]
    assert [top["logprob"] for top in streamed[0]["top_logprobs"]] == [-0.5, -9999.0]


@pytest.mark.parametrize("make", [chat, completion])
def test_token_ids_are_given_when_asked_for_and_only_then(make):
    """vLLM's `token_ids` on the choice; benchmarks count by them."""
    chunks = openai_chunks(make(return_token_ids=True), LOGPROB_EVENTS)
    assert [i for chunk in chunks for i in chunk["choices"][0].get("token_ids") or ()] == [7, 8]
    assert json.loads(make(return_token_ids=True).document(LOGPROB_EVENTS))["choices"][0]["token_ids"] == [7, 8]
    assert b"token_ids" not in make().document(LOGPROB_EVENTS)
    assert "token_ids" not in json.dumps(openai_chunks(make(), LOGPROB_EVENTS))


@pytest.mark.parametrize("make", [chat, completion])
def test_every_choice_has_its_own_index_and_end(make):
    """n answers to each of two prompts, interleaved."""
    events: list[Event] = [TextDelta(3, "d"), TextDelta(0, "a"), TextDelta(3, "D")]
    events += [Finished(i, "stop") for i in (1, 3, 0, 2)]
    projector = make(n=2, prompts=(TextPrompt("x"), TextPrompt("y")))
    chunks = openai_chunks(projector, [*events, USAGE])
    assert [chunk["choices"][0]["index"] for chunk in chunks][-7:] == [3, 0, 3, 1, 3, 0, 2]
    document = json.loads(make(n=4).document([*events, USAGE]))
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2, 3]
    assert [choice.get("text", choice.get("message", {}).get("content")) for choice in document["choices"]] == [
        "a",
        "",
        "",
        "dD",
    ]


# --- OpenAI completions


def test_a_completion_stream_is_text():
    """There is no role, and the SDK takes a chunk as a Completion whose reason may be null."""
    chunks = openai_chunks(completion(), text("Hel", "lo"))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo", ""]
    assert completion().opening() == b""
    assert Completion.model_validate(chunks[-1]).object == "text_completion"
    answer = Completion.model_validate_json(completion().document(text("Hel", "lo")))
    assert (answer.id, answer.choices[0].text, answer.usage and answer.usage.total_tokens) == ("cmpl-r1", "Hello", 7)


def test_completion_logprobs_count_offsets_over_the_whole_answer():
    """Four lists of one length; a token that cannot be has none, and the first echoed one is null (case S9)."""
    events = [TextDelta(0, "", (TokenLogprob("p", b"p", math.nan),)), *LOGPROB_EVENTS]
    chunks = openai_chunks(completion(logprobs=2), events)
    parts = [part for chunk in chunks if (part := chunk["choices"][0]["logprobs"])]
    whole = json.loads(completion(logprobs=2).document(events))["choices"][0]["logprobs"]
    assert {key: [item for part in parts for item in part[key]] for key in whole} == whole
    assert whole == {
        "text_offset": [0, 1, 3],
        "token_logprobs": [None, -0.5, -1.0],
        "tokens": ["p", "ré", "x"],
        "top_logprobs": [{}, {"ré": -0.5}, {"x": -1.0}],
    }


# --- Anthropic


def test_a_message_stream_starts_at_once_and_ends_with_the_reason():
    """message_start needs no event of the engine (case S7), and has the prompt's tokens; then what was cached."""
    start, *middle, delta, stop = named_events(messages(), text("Hel", "lo"))
    assert messages().opening().startswith(b"event: message_start\n")
    assert start["message"]["usage"] == {"input_tokens": 3, "cache_read_input_tokens": 0, "output_tokens": 0}
    assert middle == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
    ]
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"] == {"input_tokens": 2, "cache_read_input_tokens": 1, "output_tokens": 4}
    assert stop == {"type": "message_stop"}


MIXED_EVENTS: list[Event] = [ReasoningDelta(0, "hm"), *TOOL_EVENTS[:-2], TextDelta(0, "end"), *TOOL_EVENTS[-2:]]


def test_each_run_of_like_events_is_one_block():
    """Thinking, text, each tool call, and text again (cases S4, W5)."""
    events = named_events(messages(), MIXED_EVENTS)
    for event in events:
        STREAM_EVENT.validate_python(event)
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [(block["type"], block.get("id")) for block in starts] == [
        ("thinking", None),
        ("text", None),
        ("tool_use", "c1"),
        ("tool_use", "c2"),
        ("text", None),
    ]
    order = [(event["type"], event["index"]) for event in events if "index" in event and "delta" not in event]
    assert order == [(f"content_block_{what}", i) for i in range(5) for what in ("start", "stop")]
    pieces = [event["delta"]["partial_json"] for event in events if "partial_json" in event.get("delta", ())]
    assert pieces == ['{"a":', "1}", "{}"]


def test_a_whole_message_has_the_blocks_of_the_streamed_one():
    """One path for both (case S9)."""
    answer = Message.model_validate_json(messages().document(MIXED_EVENTS))
    assert [block.model_dump(exclude_none=True) for block in answer.content] == [
        {"type": "thinking", "thinking": "hm", "signature": HM_SIGNATURE},
        {"type": "text", "text": "see"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
        {"type": "text", "text": "end"},
    ]
    assert (answer.id, answer.stop_reason, answer.usage.output_tokens) == ("msg_r1", "tool_use", 4)


def test_thoughts_that_are_not_to_be_shown_leave_their_place_and_a_signature():
    """Anthropic's display omitted: the block is there, and what was thought is not, streamed and whole (case S4)."""
    deltas = [e["delta"] for e in named_events(messages(show_reasoning=False), MIXED_EVENTS) if "delta" in e]
    assert deltas[0] == {"type": "signature_delta", "signature": HM_SIGNATURE}
    assert not any("thinking" in delta for delta in deltas)
    block = json.loads(messages(show_reasoning=False).document(MIXED_EVENTS))["content"][0]
    assert block == {"type": "thinking", "thinking": "", "signature": HM_SIGNATURE}


def test_reasoning_tokens_are_counted_where_there_were_some():
    """In each dialect's words."""
    events: list[Event] = [ReasoningDelta(0, "hm"), Finished(0, "stop"), Usage(3, 4, reasoning_tokens=2)]
    usage = json.loads(chat().document(events))["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert json.loads(messages().document(events))["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": [1, "x"], "b": "c', {"a": [1, "x"]}),
        ('{"a":', {}),
        ("", {}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("nothing", {"raw_arguments": "nothing"}),
        ('{"a": "\\ud83d"}', {"raw_arguments": '{"a": "\\ud83d"}'}),
        ("[1]", {"raw_arguments": "[1]"}),
        ("[" * 3000, {"raw_arguments": "[" * 3000}),
    ],
)
def test_arguments_that_were_cut_are_as_far_as_they_are_certain(arguments, expected):
    """A tool's input must be an object: the one that SDKs make of a stream; what is none is not lost (case S9)."""
    events: list[Event] = [ToolCallDelta(0, 0, arguments, id="c", name="f"), Finished(0, "length"), USAGE]
    assert json.loads(messages().document(events))["content"][0]["input"] == expected


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (Finished(0, "stop"), "end_turn", None),
        (Finished(0, "stop", "\n\n"), "stop_sequence", "\n\n"),
        (Finished(0, "length"), "max_tokens", None),
        (Finished(0, "tool_calls"), "tool_use", None),
        (Finished(0, "content_filter"), "refusal", None),
    ],
)
def test_the_reason_is_said_in_anthropics_words(end, reason, sequence):
    """Streamed and whole; a stop string is named."""
    events: list[Event] = [TextDelta(0, "x"), end, USAGE]
    document = json.loads(messages().document(events))
    assert (document["stop_reason"], document["stop_sequence"]) == (reason, sequence)
    assert named_events(messages(), events)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


# --- every dialect


def last_event(raw: bytes) -> dict[str, Any]:
    sent = EventReader().feed(raw)[-1]
    assert sent.data is not None
    loaded: dict[str, Any] = json.loads(sent.data)
    return loaded


@EVERY
def test_a_failure_is_the_last_event_and_no_clean_end_follows(make):
    """Failed as an event and `failure` say the same (case S6)."""
    error = GroupDied("rank 1 died")
    broken = make()
    raw = broken.opening() + broken.event(TextDelta(0, "x")) + broken.event(Failed(error))
    assert last_event(raw)["error"]["code"] == "group_died"
    assert b"[DONE]" not in raw
    assert b"message_stop" not in raw
    assert b"response.completed" not in raw
    assert make().failure(error) == make().event(Failed(error))


@EVERY
def test_closing_a_stream_whose_answer_is_not_finished_is_a_failure(make):
    """Whoever calls it: a cut answer never looks complete (case S6)."""
    cut = make()
    raw = cut.opening() + cut.event(TextDelta(0, "x")) + cut.closing()
    assert last_event(raw)["error"]["code"] == "engine_failed"
    assert b"[DONE]" not in raw
    assert b"message_stop" not in raw
    assert b"response.completed" not in raw


@EVERY
def test_a_document_of_a_broken_answer_is_its_error(make):
    """The handler turns it into a status: a cut answer is never a 200 (case S6)."""
    with pytest.raises(GroupDied):
        make().document([TextDelta(0, "x"), Failed(GroupDied("rank 1 died"))])
    with pytest.raises(EngineFailed, match="before it was complete"):
        make().document([TextDelta(0, "x"), USAGE])
    with pytest.raises(EngineFailed, match="before it was complete"):
        make().document([TextDelta(0, "x"), Finished(0, "stop")])


@EVERY
def test_an_event_with_nothing_to_say_sends_nothing(make):
    """Empty text opens no block and is no chunk."""
    projector: Projector = make()
    projector.opening()
    assert projector.event(TextDelta(0, "")) == b""
    assert projector.event(ReasoningDelta(0, "")) == b""
    assert EventReader().feed(projector.keepalive())


def content_of(chunk: dict[str, Any]) -> str:
    choice = chunk["choices"][0]
    return choice["text"] if "text" in choice else choice["delta"].get("content") or ""


@pytest.mark.parametrize("make", [chat, completion])
@given(words=TEXTS)
def test_the_deltas_of_an_openai_stream_are_the_document(make, words):
    """Any text: quotes, control characters, emoji (case S9)."""
    streamed = "".join(map(content_of, openai_chunks(make(), text(*words))))
    choice = json.loads(make().document(text(*words)))["choices"][0]
    assert streamed == (choice["text"] if "text" in choice else choice["message"]["content"]) == "".join(words)


@given(words=TEXTS)
def test_the_deltas_of_an_anthropic_stream_are_the_document(words):
    """Any text: quotes, control characters, emoji (case S9)."""
    events = named_events(messages(), text(*words))
    streamed = "".join(event["delta"].get("text", "") for event in events if "delta" in event)
    content = json.loads(messages().document(text(*words)))["content"]
    assert streamed == "".join(block["text"] for block in content) == "".join(words)


@given(words=TEXTS)
def test_the_deltas_of_a_response_are_the_document(words):
    """Any text: quotes, control characters, emoji; MARK among it (case S9)."""
    events = named_events(responses(), text(*words, MARK))
    streamed = "".join(event.get("delta", "") for event in events)
    assert streamed == "".join((*words, MARK)) == events[-1]["response"]["output"][0]["content"][0]["text"]
    assert json.loads(responses().document(text(*words, MARK))) == events[-1]["response"]


@pytest.mark.parametrize("name", [MARK, f'a"\n{MARK}\\'])
@pytest.mark.parametrize("make", [chat, completion])
def test_a_models_name_cannot_break_a_frame(make, name):
    """The name is the client's, and stands in the part of a chunk that is encoded once."""
    chunks = openai_chunks(make(model=name), text("x"))
    assert {chunk["model"] for chunk in chunks} == {name}
    assert "".join(map(content_of, chunks)) == "x"
