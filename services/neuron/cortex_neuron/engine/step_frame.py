"""A step's batch as one frame for the workers, and back: raw int32, nothing per token but its four bytes.

Called by: engine.leader (packs), engine.worker (unpacks).
"""

from __future__ import annotations

import numpy as np

from cortex_neuron.layers.batch import Batch, Ints, Tables, make_batch
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Step


def pack(batch: Batch) -> Step:
    """The frame of this batch."""
    tables = [batch.table(i) for i in range(len(batch.pasts))]
    return Step(
        tokens=_bytes(batch.tokens),
        lengths=_bytes(batch.counts),
        pasts=_bytes(batch.pasts),
        tables=b"".join(_bytes(table) for table in tables),
        table_lengths=_bytes(np.array([len(table) for table in tables], np.int32)),
        wanted=_bytes(batch.wanted),
    )


def unpack(step: Step, block_size: int) -> Batch:
    """The batch of this frame. Raises BadRequest where its parts do not fit each other."""
    counts, pasts, held = _numbers(step.lengths), _numbers(step.pasts), _numbers(step.table_lengths)
    tokens, flat = _numbers(step.tokens), _numbers(step.tables)
    _check(counts, len(tokens), len(pasts), "tokens")
    _check(held, len(flat), len(pasts), "blocks")
    if (counts < 1).any() or (held * block_size < pasts + counts).any():
        raise BadRequest(f"step: {len(flat)} blocks of {block_size} are not those of {len(tokens)} tokens")
    starts = (np.cumsum(held) - held).astype(np.int32)
    return make_batch(tokens, counts, pasts, Tables(flat, starts, block_size), _numbers(step.wanted))


def _bytes(numbers: Ints) -> bytes:
    return numbers.astype("<i4", copy=False).tobytes()


def _numbers(data: bytes) -> Ints:
    return np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False)


def _check(parts: Ints, total: int, spans: int, name: str) -> None:
    if len(parts) != spans or parts.sum() != total:
        raise BadRequest(f"step: {total} {name} in {len(parts)} parts of {parts.sum()}, for {spans} spans")
