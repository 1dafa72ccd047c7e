"""Steps in which every sequence decodes, as CUDA graphs: one launch for the thousand of a step.

Owns: the tensors that graphs read and write, how a batch is padded to the size of one, and the graphs. Does not own:
what a step computes (engine.runner), when it is one of these (which the runner asks), or what several ranks agree on
(engine.recording). Called by: engine.runner and engine.recording.

A graph reads its step from one tensor of int32, filled by one copy. Padding repeats the row with the shortest text,
its slot included: what is written there twice is the same. So padding needs no room in the cache and no kernel that
knows of it, and costs what the shortest row costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.layers.backend import Kernel
from cortex_neuron.layers.batch import Batch, Ints
from cortex_neuron.layers.page_kernels import Pages, padded_tables
from cortex_neuron.layers.paged import Layout, filled_in
from cortex_neuron.layers.transfer import upload

_SIZES = (1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, 513, 32))
_FIELDS = 4  # of a row: token, position, slot, length

Step = Callable[[], None]
# Runs a step once, for what it sets up, and makes what runs it again.
Record = Callable[[Step], Step]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of all batches: sequences, and blocks of one."""

    sequences: int
    blocks: int
    block_size: int


class DecodeGraphs:
    """`compute` gives logits [rows, vocab] of all rows. What it gives is overwritten by the next step."""

    def __init__(self, compute: Callable[[Layout], Tensor], bounds: Bounds, device: torch.device, record: Record):
        self._compute, self._bounds, self._record = compute, bounds, record
        self.sizes = sizes(bounds.sequences)
        most = self.sizes[-1]
        self._rows = torch.zeros(_FIELDS * most, dtype=torch.int32, device=device)
        self._tables = torch.zeros(most, bounds.blocks, dtype=torch.int32, device=device)
        self._all = torch.arange(most, device=device)
        self._logits: Tensor | None = None
        self._recorded: dict[int, Step] = {}

    def takes(self, batch: Batch) -> bool:
        """Whether every sequence decodes, and there are not too many."""
        return batch.num_rows == len(batch.counts) <= self.sizes[-1]

    @property
    def largest_first(self) -> list[int]:
        """The sizes in the order to record them: the others then find memory enough in what the largest has left."""
        return self.sizes[::-1]

    def record(self, size: int) -> None:
        """The graph of one size. Writes to block 0, before its use."""
        self._recorded[size] = self._record(lambda: self._step(size))

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted."""
        size = self.sizes[bisect_left(self.sizes, batch.num_rows)]
        self._fill(batch, size, drawn)
        self._recorded[size]()
        assert self._logits is not None, "it was made with the first graph"
        if np.array_equal(batch.wanted, np.arange(batch.num_rows)):
            return self._logits[: batch.num_rows]
        return self._logits[upload(batch.wanted.astype(np.int64), self._logits.device)]

    def drop(self) -> None:
        """Free the graphs. What they hold of a communicator must be gone before that is aborted."""
        self._recorded.clear()

    # ----

    def _fill(self, batch: Batch, size: int, drawn: Tensor | None) -> None:
        rows, tables = padded(batch, size)
        sent = upload(np.concatenate((rows.ravel(), tables.ravel())), self._rows.device)  # one copy
        self._rows[: rows.size].copy_(sent[: rows.size])
        if drawn is not None:
            self._rows[:size].copy_(filled_in(sent[:size], drawn))
        self._tables[:size, : tables.shape[1]].copy_(sent[rows.size :].view(tables.shape))

    def _step(self, size: int) -> None:
        logits = self._compute(self._layout(size))
        if self._logits is None:
            self._logits = logits.new_empty(self.sizes[-1], logits.shape[-1])
        self._logits[:size].copy_(logits)

    def _layout(self, size: int) -> Layout:
        """Of tensors that stay where they are; widening them is part of the graph."""
        rows = self._rows[: _FIELDS * size].view(_FIELDS, size)
        wide = rows[:-1].long()
        pages = Pages(
            kernel=Kernel.TRITON,
            rows=slice(0, size),
            block_size=self._bounds.block_size,
            tables=self._tables[:size],
            lengths=rows[-1],
            starts=self._all,
            seen_starts=self._all,
            most_rows=1,
            most_length=0,
        )
        return Layout(wide[0], wide[1], wide[2], self._all[:size], [], [], [pages])


def sizes(most: int) -> list[int]:
    """Of graphs for batches of up to `most`: close enough that padding costs little, few enough to record."""
    most = min(most, _SIZES[-1])
    return [*(size for size in _SIZES if size < most), most]


def padded(batch: Batch, size: int) -> tuple[Ints, Ints]:
    """[fields, size] and [size, blocks] of a batch in which every sequence decodes."""
    order = np.arange(size)
    order[batch.num_rows :] = np.argmin(batch.lengths)
    rows = np.stack((batch.tokens, batch.positions, batch.slots, batch.lengths))[:, order]
    return rows, padded_tables(batch, order)


def record_on(device: torch.device) -> Record:
    """Recording by CUDA. All graphs share their memory: only one runs at a time."""
    pool: Any = torch.cuda.graph_pool_handle()

    def record(step: Step) -> Step:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            step()  # kernels are compiled, and libraries take their memory, before anything is recorded
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            step()
        replay: Step = graph.replay
        return replay

    return record
