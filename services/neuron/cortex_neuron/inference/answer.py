"""One request's answer as the one stream of events, whoever reads it (case S9).

Owns: the sequences of a request from submit to close, and its figures. Does not own: bytes (projectors)
or the connection (api). Called by: api.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from cortex_contracts.wire.errors import CortexError
from cortex_dialects.events import Event, Failed, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from cortex_neuron.group.failures import of_frame
from cortex_neuron.group.stream import Stream
from cortex_neuron.inference.preparation import Prepared
from cortex_neuron.protocol.frames import Output


@dataclass(slots=True)
class Record:
    """What one request came to; complete on every path, for its log line and the metrics (case S12)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion's
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    submitted_at: float | None = None  # event loop time of its hand-over to the engine
    decoded_tokens: int = 0  # those that decode_ms was spent on: all but each choice's first step's
    first_content_at: float | None = None  # event loop time of the first text, reasoning or tool delta (case M1)
    finish_reason: str | None = None

    @property
    def computed(self) -> bool:
        """Whether the engine has given anything, and so has said how long it took."""
        return self.prefill_ms > 0

    def usage(self) -> Usage:
        """As the client is told."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.reasoning_tokens,
            queue_ms=round(self.queue_ms, 3),
            prefill_ms=round(self.prefill_ms, 3),
            decode_ms=round(self.decode_ms, 3),
        )


async def events(prepared: Prepared, record: Record, idle_s: float) -> AsyncGenerator[list[Event], None]:
    """Batches of events; an empty one after each `idle_s` of silence. Ends with Usage, or with Failed.

    Close it (aclosing), whatever happens: that ends the sequences. Raises GroupDied before the first batch.
    """
    record.prompt_tokens = prepared.prompt_tokens
    record.submitted_at = asyncio.get_running_loop().time()
    stream = prepared.serving.group.submit(prepared.submissions)
    try:
        reader = _Reader(prepared, stream, record)
        yield reader.opening()
        while reader.unfinished:
            yield reader.take(await stream.next(idle_s))
        if not reader.failed:
            yield [record.usage()]
    except CortexError as failure:
        yield [Failed(failure)]
    finally:
        stream.close()


class _Reader:
    """Turns outputs into events and keeps the record."""

    def __init__(self, prepared: Prepared, stream: Stream, record: Record) -> None:
        self._choices = dict(zip(stream.ids, prepared.choices(), strict=True))
        self._echoes = prepared.echoes()
        self._per_prompt = prepared.generation.n
        self._stream = stream
        self._record = record
        self._first_output: dict[int, float] = {}
        self.unfinished = set(stream.ids)
        self.failed = False

    def opening(self) -> list[Event]:
        return [TextDelta(index, text) for index, text in enumerate(self._echoes) if text]

    def take(self, outputs: list[Output]) -> list[Event]:
        """What a step or more gave. A sequence that failed ends them all: what came before is told, then Failed."""
        now = asyncio.get_running_loop().time()
        taken: list[Event] = []
        for output in outputs:
            if output.id in self.unfinished:  # not cut at a stop string earlier in this batch
                self._time(output, now)
                taken += self._fail(output) if output.finish == "error" else self._read(output)
        if self._record.first_content_at is None and any(_is_content(event) for event in taken):
            self._record.first_content_at = now
        return taken

    def _fail(self, output: Output) -> list[Event]:
        self.failed = True
        self.unfinished.clear()
        return [Failed(of_frame(output.error_kind or "", output.error or "the engine failed this request"))]

    def _read(self, output: Output) -> list[Event]:
        choice = self._choices[output.id]
        before, thoughts = choice.num_tokens, choice.num_thoughts
        taken = list(choice.take(output))
        self._record.completion_tokens += choice.num_tokens - before
        self._record.reasoning_tokens += choice.num_thoughts - thoughts
        if before:
            self._record.decoded_tokens += choice.num_tokens - before
        if choice.finished is not None:
            self._finish(output.id, choice.finished)
        return taken

    def _finish(self, sequence: int, finished: Finished) -> None:
        self.unfinished.discard(sequence)
        self._record.finish_reason = finished.reason
        self._stream.cancel(sequence)  # nothing to do unless it was a stop string or its one call that ended it

    def _time(self, output: Output, now: float) -> None:
        record = self._record
        if output.id not in self._first_output:
            self._first_output[output.id] = now
            record.queue_ms = max(record.queue_ms, output.queue_ms)
            record.prefill_ms = max(record.prefill_ms, output.prefill_ms)
            if (output.id - self._stream.ids[0]) % self._per_prompt == 0:
                record.cached_tokens += output.cached_tokens
        record.decode_ms = max(record.decode_ms, (now - self._first_output[output.id]) * 1000)


def _is_content(event: Event) -> bool:
    match event:
        case TextDelta() | ReasoningDelta():
            return bool(event.text)
        case ToolCallDelta():
            return True
        case _:
            return False
