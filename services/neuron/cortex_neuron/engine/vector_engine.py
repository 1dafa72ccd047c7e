"""The engine of a model that embeds or ranks: submit, cancel, step, as engine.Engine has them.

Owns: the texts that wait. Does not own: which of them go together (vector_batch), the room there is (vector_part), or
the model (models.vector_model). There is no cache: a text is computed in one step, whole. Called by: engine.rank.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.engine.failures import Verdict, classify
from cortex_neuron.engine.vector_batch import LOOKED_AT, choose
from cortex_neuron.engine.vector_part import VectorPart
from cortex_neuron.models.vector_model import Row, finished
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Encode, Output, Stepped
from cortex_neuron.protocol.priority import turn

# Each text of a request waits as if it had come so much after the one before it: who asks for one does not wait for all
# of somebody's thousand.
_BETWEEN_S = 0.05
TELL_S = 1.0  # whoever waits longer for a step, or for a part of one, takes the engine for stuck some time


@dataclass(frozen=True, slots=True)
class _Text:
    id: int
    tokens: Row
    types: Row | None
    dimensions: int | None
    turn: float
    submitted_s: float


class VectorEngine:
    """`waiting` is kept in the order of turns; of one request, the longest text comes first."""

    def __init__(self, part: VectorPart, tell: Callable[[Stepped], None] = lambda _: None) -> None:
        """`tell` is told in the middle of a long step that it goes on: of a long text there is nothing else to tell."""
        self._model, self._part, self._tell = part.model, part, tell
        self._told_s = math.inf
        self._model.watch(self._tick)
        self._waiting: list[_Text] = []
        self._num_steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def submit(self, frame: Encode) -> None:
        """Queue what it asks for. Raises BadRequest."""
        now_s = time.monotonic()
        texts = sorted(enumerate(_texts(frame)), key=lambda each: -len(each[1][0]))
        for tokens, types in (each for _, each in texts):
            self._check(tokens, types)
        for place, (number, (tokens, types)) in enumerate(texts):
            at = turn(frame.priority, now_s) + place * _BETWEEN_S
            insort(self._waiting, _Text(frame.id + number, tokens, types, frame.dimensions, at, now_s), key=_turn)

    def _check(self, tokens: Row, types: Row | None) -> None:
        if not 1 <= len(tokens) <= self._part.context:
            raise BadRequest(f"a text has {len(tokens)} tokens, should have 1 to {self._part.context}")
        if tokens.min() < 0 or tokens.max() >= self._model.vocab_size:
            raise BadRequest(f"a token is outside of the vocabulary of {self._model.vocab_size}")
        if types is not None and (types.min() < 0 or types.max() > 1):
            raise BadRequest("a segment is neither 0 nor 1")

    def cancel(self, ids: Iterable[int]) -> None:
        """Forget these; ids that are not here are computed already."""
        gone = set(ids)
        self._waiting = [each for each in self._waiting if each.id not in gone]

    def step(self) -> Stepped:
        """Compute one batch. A fault of this batch ends its texts; a fault of the device is raised."""
        started_s = self._told_s = time.monotonic()
        head = self._waiting[:LOOKED_AT]
        places = frozenset(choose([len(each.tokens) for each in head], self._part.step_tokens))
        batch = [each for place, each in enumerate(head) if place in places]
        self._waiting[: len(head)] = [each for place, each in enumerate(head) if place not in places]
        outputs = self._run(batch, started_s)
        self._num_steps += 1
        return self.report(outputs, (time.monotonic() - started_s) * 1000)

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            self._tell(self.report([], 0.0))

    def report(self, outputs: list[Output], step_ms: float) -> Stepped:
        """What a step gave, and how the engine stands."""
        return Stepped(
            seq=self._num_steps,
            outputs=outputs,
            running=0,
            waiting=len(self._waiting),
            kv_blocks_free=0,
            step_ms=step_ms,
        )

    def _run(self, batch: list[_Text], started_s: float) -> list[Output]:
        try:
            pooled = self._model.run([each.tokens for each in batch], [each.types for each in batch])
        except Exception as error:
            verdict = classify(error)
            if verdict.fatal:
                raise
            return [_failed(each, verdict) for each in batch]
        took_ms = (time.monotonic() - started_s) * 1000
        return [self._output(text, row, started_s, took_ms) for text, row in zip(batch, pooled, strict=True)]

    def _output(self, text: _Text, pooled: Tensor, started_s: float, took_ms: float) -> Output:
        pooling = self._model.pooling
        vector = finished(pooled, text.dimensions, normalize=pooling is not None and pooling.normalize)
        if not bool(torch.isfinite(vector).all()):
            words = "the model computed NaN or infinity for this text"
            return _failed(text, Verdict("non_finite_logits", words, fatal=False))
        return Output(
            id=text.id,
            tokens=[],
            finish="stop",
            queue_ms=(started_s - text.submitted_s) * 1000,
            prefill_ms=took_ms,
            vector=vector.numpy().astype("<f4").tobytes(),
        )


def _texts(frame: Encode) -> list[tuple[Row, Row | None]]:
    """Raises BadRequest."""
    try:
        tokens, lengths, types = (np.frombuffer(each, "<i4") for each in (frame.tokens, frame.lengths, frame.types))
    except ValueError as error:
        raise BadRequest(f"a field is not of whole int32: {error}") from error
    if len(lengths) == 0 or lengths.min() < 0 or lengths.sum() != len(tokens) or len(types) not in (0, len(tokens)):
        raise BadRequest(f"{len(tokens)} tokens and {len(types)} segments are not those of {lengths.tolist()[:10]}")
    ends = np.cumsum(lengths)[:-1]
    segments = np.split(types, ends) if len(types) else [None] * len(lengths)
    return list(zip(np.split(tokens, ends), segments, strict=True))


def _failed(text: _Text, fault: Verdict) -> Output:
    return Output(text.id, [], finish="error", error_kind=fault.kind, error=fault.message)


def _turn(text: _Text) -> float:
    return text.turn
