"""The same events streamed and whole are the same answer: text, thoughts, calls, usage and reason (case S9)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from generated_events import answers, chat_choices, gathered_chat, gathered_message, gathered_response
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_dialects.events import Event, Finished, ReasoningDelta, TextDelta, Usage
from cortex_dialects.generation import Generation, TextPrompt
from cortex_dialects.projectors import (
    Projector,
    chat_projector,
    completion_projector,
    messages_projector,
    responses_projector,
)
from cortex_dialects.sse import EventReader
from cortex_dialects.translate import ChatStreamReader, chat_document_to_events

TIMES = 300


def generation(count: int, **more: Any) -> Generation:
    return Generation(model="m", prompts=(TextPrompt("x"),), n=count, include_usage=True, **more)


def streamed(projector: Projector, events: list[Event]) -> list[dict[str, Any]]:
    """The payloads of a whole stream, but for [DONE]."""
    raw = projector.opening() + b"".join(map(projector.event, events)) + projector.closing()
    return [json.loads(each.data or "") for each in EventReader().feed(raw) if each.data != "[DONE]"]


@settings(max_examples=TIMES)
@given(answer=answers())
def test_a_chat(answer: tuple[int, list[Event]]) -> None:
    """All choices, however their events are interleaved."""
    count, events = answer
    chunks = streamed(chat_projector(generation(count), "r", 1), events)
    document = json.loads(chat_projector(generation(count), "r", 1).document(events))
    assert gathered_chat(chunks, count) == chat_choices(document)
    assert chunks[-1]["usage"] == document["usage"]


@settings(max_examples=TIMES)
@given(answer=answers(most_choices=1), shown=st.booleans())
def test_a_message(answer: tuple[int, list[Event]], shown: bool) -> None:
    """Block by block, its id and its stop sequence included; also where thoughts are not to be shown."""
    events, of = answer[1], generation(1, show_reasoning=shown)
    usage = events[-1]
    projector = messages_projector(of, "r", 1, usage.prompt_tokens)  # type: ignore[union-attr]
    document = json.loads(messages_projector(of, "r", 1, 0).document(events))
    assert gathered_message(streamed(projector, events)) == document


@settings(max_examples=TIMES)
@given(answer=answers(most_choices=1))
def test_a_response(answer: tuple[int, list[Event]]) -> None:
    """Item by item, as its deltas come to it and as its last event repeats it; numbers of events without a gap."""
    events, of = answer[1], generation(1)
    sent = streamed(responses_projector(of, "r", 1), events)
    document = json.loads(responses_projector(of, "r", 1).document(events))
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    assert sent[-1]["response"] == document
    assert gathered_response(sent) == document


@settings(max_examples=TIMES)
@given(answer=answers())
def test_a_completion(answer: tuple[int, list[Event]]) -> None:
    """Text alone: there are no thoughts and no calls."""
    count, events = answer
    events = [each for each in events if isinstance(each, TextDelta | Finished | Usage)]
    chunks = streamed(completion_projector(generation(count), "r", 1), events)
    document = json.loads(completion_projector(generation(count), "r", 1).document(events))
    texts, reasons = [""] * count, [None] * count
    for part in (part for chunk in chunks for part in chunk["choices"]):
        texts[part["index"]] += part["text"]
        reasons[part["index"]] = part["finish_reason"] or reasons[part["index"]]
    assert texts == [choice["text"] for choice in document["choices"]]
    assert reasons == [choice["finish_reason"] for choice in document["choices"]]
    assert chunks[-1]["usage"] == document["usage"]


@settings(max_examples=TIMES)
@given(answer=answers(most_choices=1), size=st.integers(1, 400))
def test_a_chat_that_a_gateway_translates(answer: tuple[int, list[Event]], size: int) -> None:
    """An engine that speaks chat alone: its stream and its document come to the same message or response (case W5)."""
    events, of = answer[1], generation(1)
    projector = chat_projector(of, "r", 1)
    raw = projector.opening() + b"".join(map(projector.event, events)) + projector.closing()
    reader = ChatStreamReader()
    found = [each for at in range(0, len(raw), size) for each in reader.feed(raw[at : at + size])] + reader.end()
    read = chat_document_to_events(chat_projector(of, "r", 1).document(events))
    by_stream = gathered_message(streamed(messages_projector(of, "r", 1, 0), found))
    by_document = json.loads(messages_projector(of, "r", 1, 0).document(read))
    assert by_stream == by_document
    direct = json.loads(messages_projector(of, "r", 1, 0).document(_without_stop_sequence(events)))
    assert by_document == direct
    response = gathered_response(streamed(responses_projector(of, "r", 1), found))
    assert response == json.loads(responses_projector(of, "r", 1).document(events))


def _without_stop_sequence(events: list[Event]) -> list[Event]:
    """OpenAI's words have no place for it."""
    return [replace(each, stop_sequence=None) if isinstance(each, Finished) else each for each in events]


def test_the_generated_answers_hold_every_kind_of_event() -> None:
    """A generator that makes no thoughts would prove nothing of them."""
    seen: set[type] = set()

    @settings(max_examples=TIMES, database=None)
    @given(answer=answers())
    def look(answer: tuple[int, list[Event]]) -> None:
        seen.update(map(type, answer[1]))

    look()
    assert {TextDelta, ReasoningDelta} < seen
    assert len(seen) == 5
