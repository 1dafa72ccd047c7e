"""Every byte of each dialect's streams and documents, as versioned files: a change of them is a change for clients.

After a change that is meant, CORTEX_WRITE_GOLDEN=1 writes them anew, for a reader to look at the difference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cortex_contracts.wire.errors import GroupDied
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
from cortex_dialects.responses import parse_responses

FOLDER = Path(__file__).parent / "golden"
USAGE = Usage(prompt_tokens=12, completion_tokens=7, cached_tokens=4)
THOUGHTFUL = Usage(prompt_tokens=12, completion_tokens=7, cached_tokens=4, reasoning_tokens=3)


def token(text: str, logprob: float, *top: tuple[str, float]) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), logprob, tuple(TokenLogprob(t, t.encode(), p) for t, p in top))


TEXT: list[Event] = [TextDelta(0, "Grüße "), TextDelta(0, '🙂 "x"\n'), Finished(0, "stop"), USAGE]
STOPPED: list[Event] = [TextDelta(0, "one "), Finished(0, "stop", "STOP"), USAGE]
CUT: list[Event] = [TextDelta(0, '<tool_call>\n{"name": "wea'), Finished(0, "length"), USAGE]
THOUGHTS: list[Event] = [ReasoningDelta(0, "hm"), ReasoningDelta(0, ", 7"), TextDelta(0, "7"), *TEXT[-2:-1], THOUGHTFUL]
TOOLS: list[Event] = [
    ReasoningDelta(0, "ask"),
    TextDelta(0, "Let me see."),
    ToolCallDelta(0, 0, "", "call_1", "weather"),
    ToolCallDelta(0, 0, '{"city": "Zürich"}'),
    ToolCallDelta(0, 1, "", "call_2", "clock"),
    ToolCallDelta(0, 1, "{}"),
    Finished(0, "tool_calls"),
    THOUGHTFUL,
]
CUT_ARGUMENTS: list[Event] = [
    ToolCallDelta(0, 0, "", "call_1", "write"),
    TextDelta(0, "", (token('{"path": ', -0.5),), (7,)),
    ToolCallDelta(0, 0, '{"path": '),
    TextDelta(0, "", (token('"a', -0.5),), (8,)),
    ToolCallDelta(0, 0, '"a'),
    ToolCallDelta(0, 0, '🙂.py", "text": "\\n'),
    Finished(0, "length"),
    USAGE,
]
BROKEN: list[Event] = [TextDelta(0, "Gr"), Failed(GroupDied("rank 1 died"))]
LOGPROBS: list[Event] = [
    TextDelta(0, "", (token("ré", -0.5, ("ré", -0.5), ("no", -2.25)),), (7,)),
    TextDelta(0, "réx", (token("x", -1.0, ("x", -1.0), ("y", -3.5)),), (8,)),
    Finished(0, "length"),
    USAGE,
]
SILENT: list[Event] = [Finished(0, "stop"), USAGE]
FILTERED: list[Event] = [TextDelta(0, "Gr"), Finished(0, "content_filter"), USAGE]  # only other engines end so
TWO: list[Event] = [TextDelta(1, "b"), TextDelta(0, "a"), Finished(1, "length"), Finished(0, "stop"), USAGE]

REPEATED = parse_responses(
    json.dumps(
        {
            "model": "m",
            "input": "x",
            "instructions": "Be brief.",
            "max_output_tokens": 9,
            "metadata": {"a": "b"},
            "parallel_tool_calls": False,
            "reasoning": {"effort": "low"},
            "store": True,
            "temperature": 0.5,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "tool_choice": {"type": "function", "name": "f"},
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
            "top_p": 0.9,
            "user": "u",
        }
    ).encode()
).repeated

Make = Callable[[Generation], Projector]
MAKERS: dict[str, Make] = {
    "chat": lambda of: chat_projector(of, "r1", 1_700_000_000),
    "completion": lambda of: completion_projector(of, "r1", 1_700_000_000),
    "messages": lambda of: messages_projector(of, "r1", 1_700_000_000, prompt_tokens=12),
    "responses": lambda of: responses_projector(of, "r1", 1_700_000_000),
}
CASES: list[tuple[str, str, list[Event], dict[str, Any]]] = [
    *((dialect, "text", TEXT, {"include_usage": True}) for dialect in MAKERS),
    *((dialect, "stopped", STOPPED, {}) for dialect in MAKERS),
    *((dialect, "broken", BROKEN, {}) for dialect in MAKERS),
    *((dialect, "cut_call", CUT, {}) for dialect in ("chat", "messages", "responses")),
    *((dialect, "cut_arguments", CUT_ARGUMENTS, {"logprobs": 0}) for dialect in ("chat", "messages", "responses")),
    *((dialect, "thoughts", THOUGHTS, {"include_usage": True}) for dialect in ("chat", "messages", "responses")),
    *((dialect, "tools", TOOLS, {"include_usage": True}) for dialect in ("chat", "messages", "responses")),
    *((dialect, "logprobs", LOGPROBS, {"logprobs": 2, "return_token_ids": True}) for dialect in ("chat", "completion")),
    *((dialect, "two_choices", TWO, {"n": 2}) for dialect in ("chat", "completion")),
    ("messages", "thoughts_omitted", TOOLS, {"show_reasoning": False}),
    ("responses", "logprobs", LOGPROBS, {"logprobs": 2}),
    *((dialect, "silent", SILENT, {}) for dialect in MAKERS),
    *((dialect, "filtered", FILTERED, {}) for dialect in MAKERS),
    ("responses", "repeated", SILENT, {"repeated": REPEATED}),
]


def projector(dialect: str, fields: dict[str, Any]) -> Projector:
    return MAKERS[dialect](Generation(model="org/m:1", prompts=(TextPrompt("x"),), **fields))


def stream(dialect: str, events: list[Event], fields: dict[str, Any]) -> bytes:
    """From the first byte to the last, with a keep-alive after the opening."""
    made = projector(dialect, fields)
    raw = made.opening() + made.keepalive() + b"".join(map(made.event, events))
    return raw if isinstance(events[-1], Failed) else raw + made.closing()


def check(name: str, said: bytes) -> None:
    file = FOLDER / name
    if os.environ.get("CORTEX_WRITE_GOLDEN"):
        file.write_bytes(said)
    assert said.decode() == file.read_bytes().decode()


def name_of(each: object) -> str:
    return each if isinstance(each, str) else ""


@pytest.mark.parametrize(("dialect", "case", "events", "fields"), CASES, ids=name_of)
def test_a_stream_is_what_it_was(dialect: str, case: str, events: list[Event], fields: dict[str, Any]) -> None:
    """Chunks, their fields and their order, comments and framing."""
    check(f"{dialect}.{case}.sse", stream(dialect, events, fields))


@pytest.mark.parametrize(
    ("dialect", "case", "events", "fields"),
    [each for each in CASES if each[1] != "broken"],
    ids=name_of,
)
def test_a_document_is_what_it_was(dialect: str, case: str, events: list[Event], fields: dict[str, Any]) -> None:
    """The same answer to a request that is not streamed."""
    check(f"{dialect}.{case}.json", projector(dialect, fields).document(events) + b"\n")


def test_there_is_no_file_without_a_test() -> None:
    """A file that nothing reads says nothing."""
    streams = {f"{dialect}.{case}.sse" for dialect, case, _, _ in CASES}
    documents = {f"{dialect}.{case}.json" for dialect, case, _, _ in CASES if case != "broken"}
    assert {file.name for file in FOLDER.iterdir()} == streams | documents
