"""A step's batch as one frame for the workers, and back: raw int32, nothing per token but its four bytes.

Called by: engine.leader (packs), engine.worker (unpacks).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from cortex_neuron.layers.paged import Span
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Step


def pack(spans: Sequence[Span], wanted: Sequence[int]) -> Step:
    """The frame of this batch."""
    return Step(
        tokens=_bytes(chain.from_iterable(span.tokens for span in spans)),
        lengths=_bytes(len(span.tokens) for span in spans),
        pasts=_bytes(span.past for span in spans),
        tables=_bytes(chain.from_iterable(span.table for span in spans)),
        table_lengths=_bytes(len(span.table) for span in spans),
        wanted=_bytes(wanted),
    )


def unpack(step: Step) -> tuple[list[Span], list[int]]:
    """The batch of this frame. Raises BadRequest where its parts do not fit each other."""
    pasts = _numbers(step.pasts)
    tokens = list(_cut(_numbers(step.tokens), _numbers(step.lengths), len(pasts), "tokens"))
    tables = list(_cut(_numbers(step.tables), _numbers(step.table_lengths), len(pasts), "tables"))
    return [Span(*parts) for parts in zip(tokens, pasts, tables, strict=True)], _numbers(step.wanted)


def _bytes(numbers: Iterable[int]) -> bytes:
    return np.fromiter(numbers, dtype="<i4").tobytes()


def _numbers(data: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(data, dtype="<i4").tolist()
    return numbers


def _cut(flat: list[int], lengths: list[int], count: int, name: str) -> Iterator[list[int]]:
    if len(lengths) != count or sum(lengths) != len(flat):
        raise BadRequest(f"step: {len(flat)} {name} in {len(lengths)} parts of {sum(lengths)}, for {count} spans")
    at = 0
    for length in lengths:
        yield flat[at : at + length]
        at += length
