"""The same request streamed and not is the same answer, from its body on: text, tools, usage, reason (case S9).

What the engine says comes in other steps each time. tests/unit/dialects/test_streams_and_documents.py has the same of
any events, however unlike those of our own engine.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from typing import Any

from generated_events import chat_choices, gathered_chat, gathered_message, gathered_response
from hypothesis import given, settings
from hypothesis import strategies as st
from model_families import TOOLS
from replayed_answer import Dialect, Told, streamed, whole

from cortex_dialects.anthropic import parse_messages
from cortex_dialects.openai import parse_chat
from cortex_dialects.projectors import chat_projector, messages_projector, responses_projector
from cortex_dialects.responses import parse_responses

TIMES = 300
CHAT: Dialect = (parse_chat, chat_projector)
MESSAGES: Dialect = (parse_messages, partial(messages_projector, prompt_tokens=7))
RESPONSES: Dialect = (parse_responses, responses_projector)

FUNCTIONS = [tool["function"] for tool in TOOLS]
USER = {"role": "user", "content": "What is the weather?"}
WORDS = st.text(st.sampled_from("ab \n🤖é<"), max_size=12)
LIMIT = st.none() | st.integers(1, 120)
STOPS = st.none() | st.lists(st.sampled_from(["b", "a\n", "🤖", "</th", "zz"]), min_size=1, max_size=2)
STEPS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@st.composite
def said(draw: st.DrawFn) -> str:
    """Thoughts, text and calls, each of which may be missing, or not in the right order or form."""
    thoughts = st.builds("<think>{}</think>\n\n".format, WORDS) | st.just("")
    call = st.builds(
        lambda name, city: f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'city': city}})}\n</tool_call>",
        st.sampled_from(["weather", "clock", "nothing"]),
        WORDS,
    )
    pieces = st.lists(WORDS | call | st.just('<tool_call>\n{"name": '), max_size=4)
    return draw(thoughts) + "\n".join(draw(pieces))


@st.composite
def told(draw: st.DrawFn) -> tuple[Told, Told]:
    """The same words in two ways of coming."""
    texts = draw(st.lists(said(), min_size=1, max_size=2))
    return Told(texts, draw(STEPS)), Told(texts, draw(STEPS))


def asked(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A request with some of these, none of them null."""
    some = st.fixed_dictionaries({"model": st.just("m")}, optional=fields)
    return some.map(lambda body: {name: value for name, value in body.items() if value is not None})


CHATS = asked(
    messages=st.just([USER]),
    max_tokens=LIMIT,
    stop=STOPS,
    n=st.integers(1, 2),
    tools=st.just(list(TOOLS)),
    parallel_tool_calls=st.booleans(),
    return_token_ids=st.booleans(),
).map(lambda body: {"messages": [USER], **body})
MESSAGE_REQUESTS = asked(
    max_tokens=LIMIT,
    stop_sequences=STOPS,
    tools=st.just([{"name": each["name"], "input_schema": each["parameters"]} for each in FUNCTIONS]),
    tool_choice=st.builds(
        lambda kind, one: {"type": kind, "disable_parallel_tool_use": one},
        st.sampled_from(["auto", "none"]),
        st.booleans(),
    ),
    thinking=st.sampled_from([{"type": "disabled"}, {"type": "adaptive", "display": "omitted"}]),
).map(lambda body: {"messages": [USER], "max_tokens": 200, **body})
RESPONSE_REQUESTS = asked(
    max_output_tokens=LIMIT,
    tools=st.just([{"type": "function", **each} for each in FUNCTIONS]),
    parallel_tool_calls=st.booleans(),
).map(lambda body: {"input": [USER], **body})


Answer = tuple[list[dict[str, Any]], dict[str, Any]]


def both(dialect: Dialect, body: dict[str, Any], ways: tuple[Told, Told], **of_stream: Any) -> Answer:
    """The stream's payloads and the document."""

    async def ask() -> Answer:
        return await streamed(dialect, body | of_stream, ways[0]), await whole(dialect, body, ways[1])

    return asyncio.run(ask())


def numbered(answer: Any) -> Any:
    """With calls numbered, whose ids are drawn anew each time."""
    seen: dict[str, str] = {}
    ids = re.compile(r'"((?:call|toolu|fc)_\w+)"')
    return json.loads(ids.sub(lambda found: seen.setdefault(found[0], f'"id {len(seen)}"'), json.dumps(answer)))


def test_a_chat() -> None:
    """Choice by choice; usage is asked of the stream, and is in a document anyhow. All kinds of answers come up."""
    seen: set[str] = set()

    @settings(max_examples=TIMES)
    @given(body=CHATS, ways=told())
    def same(body: dict[str, Any], ways: tuple[Told, Told]) -> None:
        chunks, document = both(CHAT, body, ways, stream_options={"include_usage": True})
        choices = chat_choices(document)
        assert numbered(gathered_chat(chunks, len(choices))) == numbered(choices)
        assert chunks[-1]["usage"] == document["usage"]
        for choice in choices:
            seen.update([choice["reason"], *(name for name, value in choice.items() if value)])

    same()
    assert seen == {"stop", "length", "tool_calls", "content", "reasoning", "calls", "reason"}


@settings(max_examples=TIMES)
@given(body=MESSAGE_REQUESTS, ways=told())
def test_a_message(body: dict[str, Any], ways: tuple[Told, Told]) -> None:
    """Block by block, with the stop sequence, and with thoughts omitted."""
    events, document = both(MESSAGES, body, ways)
    assert numbered(gathered_message(events)) == numbered(document)


@settings(max_examples=TIMES)
@given(body=RESPONSE_REQUESTS, ways=told())
def test_a_response(body: dict[str, Any], ways: tuple[Told, Told]) -> None:
    """Item by item, as the deltas come to it."""
    events, document = both(RESPONSES, body, ways)
    assert numbered(gathered_response(events)) == numbered(document)
