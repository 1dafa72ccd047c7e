"""A request answered all the way from its body to the bytes that a client gets, by an engine that says what it is told.

Owns: the engine's place, and the steps that its answer comes in. All else is the neuron's own: parsing, the prompt, the
text of tokens, the dialect. Called by: test_streamed_and_whole_requests.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from model_families import model
from scripted_model import byte_tokenizer

from cortex_dialects.events import Event
from cortex_dialects.generation import Generation
from cortex_dialects.projectors import Projector
from cortex_dialects.sse import EventReader
from cortex_neuron.group.group import Group
from cortex_neuron.group.stream import Stream
from cortex_neuron.inference import answer
from cortex_neuron.inference.preparation import prepare
from cortex_neuron.protocol.frames import Loaded, Output, Submit
from cortex_neuron.residency.group_serving import GroupServing

EOS = byte_tokenizer().token_to_id("<|end|>")
CONTEXT = 4096
Dialect = tuple[Callable[[bytes], Generation], Callable[[Generation, str, int], Projector]]


@dataclass(frozen=True)
class Told:
    """What the engine says: a text for each sequence, and how many of its tokens come with each step, over again."""

    texts: Sequence[str]
    steps: Sequence[int]


class _Engine:
    """In a group's place."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def submit(self, submissions: Sequence[Submit]) -> Stream:
        """All sequences take their steps side by side, each until its end or its limit."""
        stream = Stream(range(len(submissions)), 0.0, lambda ids: None)
        rest = [self._tokens(each, index) for index, each in enumerate(submissions)]
        step = 0
        while any(rest):
            size, step = self._told.steps[step % len(self._told.steps)], step + 1
            for index, tokens in enumerate(rest):
                if tokens:
                    now, rest[index] = tokens[:size], tokens[size:]
                    ends = None if rest[index] else "stop" if now[-1] == EOS else "length"
                    stream.put(Output(index, now, ends, cached_tokens=2, prefill_ms=1.0))
        return stream

    def _tokens(self, submission: Submit, index: int) -> list[int]:
        said = model("hermes").tokenizer.encode(self._told.texts[index % len(self._told.texts)]).ids
        return [*said, EOS][: submission.max_tokens]


async def streamed(dialect: Dialect, body: dict[str, Any], told: Told) -> list[dict[str, Any]]:
    """The payloads of the stream, but for [DONE]."""
    projector, events = await _answered(dialect, {**body, "stream": True}, told)
    raw = projector.opening() + b"".join(map(projector.event, events)) + projector.closing()
    return [json.loads(each.data or "") for each in EventReader().feed(raw) if each.data != "[DONE]"]


async def whole(dialect: Dialect, body: dict[str, Any], told: Told) -> dict[str, Any]:
    """The document."""
    projector, events = await _answered(dialect, body, told)
    document: dict[str, Any] = json.loads(projector.document(events))
    return document


async def _answered(dialect: Dialect, body: dict[str, Any], told: Told) -> tuple[Projector, list[Event]]:
    parse, projected = dialect
    loaded = Loaded(vram_mb=1, context=CONTEXT, vocab_size=300, block_size=16, kv_blocks=CONTEXT, eos_ids=[EOS])
    serving = GroupServing(cast(Group, _Engine(told)), loaded, model("hermes"), devices=())
    prepared = await prepare(parse(json.dumps(body).encode()), serving)
    async with aclosing(answer.events(prepared, answer.Record(), idle_s=60)) as batches:
        events = [event async for batch in batches for event in batch]
    return projected(prepared.generation, "r", 1), events
