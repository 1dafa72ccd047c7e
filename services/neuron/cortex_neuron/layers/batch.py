"""One step's batch as flat int32 arrays: what is computed, and where its keys and values lie in the paged cache.

Owns: the shape of a batch, and the arithmetic from blocks to slots. Does not own: the choice of what runs
(engine.scheduler) or what a kernel needs beyond this (layers.paged). Made by: engine.engine, and by engine.step_frame
on the other ranks of a group; read by whatever computes a step.

Nothing here is made token by token or block by block: the cost is that of the rows and sequences of the step, however
long the sequences are. Block tables are not copied, but pointed into.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Row r is one token; sequence i has the rows `starts[i]` to `starts[i + 1]`, after `pasts[i]` tokens in the cache.

    The blocks of sequence i are `tables[table_starts[i]:]`, as many as its length takes. `tables` is the engine's own
    and changes with the next step: a batch is read before that. A token below 0 is still being drawn where the model
    is: -1 is the first of those.
    """

    tokens: Ints  # [rows]
    positions: Ints  # [rows]
    slots: Ints  # [rows], where each row's key and value go: block * block_size + place in it
    starts: Ints  # [sequences + 1]
    counts: Ints  # [sequences], the rows of each
    pasts: Ints  # [sequences]
    lengths: Ints  # [sequences], the tokens of each that are in the cache once the step has run: pasts + counts
    tables: Ints  # flat
    table_starts: Ints  # [sequences], into `tables`
    wanted: Ints  # the rows whose logits are asked for
    block_size: int

    @property
    def num_rows(self) -> int:
        return len(self.tokens)

    def table(self, sequence: int) -> Ints:
        """The blocks of one sequence."""
        start = self.table_starts[sequence]
        return self.tables[start : start - (-self.lengths[sequence] // self.block_size)]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Where sequences have their blocks: `flat[starts[i]:]` are those of sequence i."""

    flat: Ints
    starts: Ints
    block_size: int


def make_batch(tokens: Ints, counts: Ints, pasts: Ints, tables: Tables, wanted: Ints) -> Batch:
    """Sequence i computes the next `counts[i]` of `tokens`; its table has blocks for them."""
    size = tables.block_size
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    positions, table_starts = pasts, tables.starts
    lengths = pasts + counts
    if len(tokens) > len(counts):  # else one row each: nothing to spread
        owner = np.repeat(np.arange(len(counts)), counts)
        positions = np.arange(len(tokens), dtype=np.int32) + (pasts - starts[:-1])[owner]
        table_starts = tables.starts[owner]
    blocks = positions // size
    slots = (tables.flat[table_starts + blocks] - blocks) * size + positions
    return Batch(
        tokens=tokens,
        positions=positions,
        slots=slots,
        starts=starts,
        counts=counts,
        pasts=pasts,
        lengths=lengths,
        tables=tables.flat,
        table_starts=tables.starts,
        wanted=wanted,
        block_size=size,
    )
