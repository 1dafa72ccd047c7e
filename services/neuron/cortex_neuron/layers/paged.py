"""Where the tokens of one step lie in the paged KV cache: every index tensor that attention needs, made once a step.

Owns: the step's layout. Does not own: the choice of what runs (engine.scheduler) or the arithmetic (layers.attention).
Called by: engine.runner, once a step; read by layers.attention in every layer.

The batch is flat: one row a token. Sequences with one new token come first, ordered by length and cut into groups of
about the same length, so that padding stays small; longer chunks follow, one sequence after the other. Where a kernel
reads the pages themselves (layers.backend), block tables take the place of groups, or of chunks' slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cortex_neuron.layers.backend import GATHERED, Backend, Kernel
from cortex_neuron.layers.batch import Batch, Ints, Places
from cortex_neuron.layers.page_kernels import Pages, pages_of
from cortex_neuron.layers.transfer import upload

# A group of single-token rows is cut where the next sequence is longer than this factor plus a block's worth.
GROUP_GROWTH = 1.5
GROUP_SLACK = 64


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows `rows` of the batch, one new token each, padded to the longest."""

    rows: slice
    slots: (
        Tensor  # [rows * width] int64; padding repeats the row's own first slot: what is masked must still be its own
    )
    lengths: Tensor  # [rows, 1] int64
    width: int

    def mask(self, window: int | None) -> Tensor | None:
        """[rows, 1, 1, width] of the keys that each row sees; None where it sees all."""
        keys = torch.arange(self.width, device=self.lengths.device)
        seen = keys < self.lengths
        if window is not None and window < self.width:
            seen &= keys >= self.lengths - window
        elif self.rows.stop - self.rows.start == 1:
            return None
        return seen[:, None, None, :]


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Rows `rows` of the batch: a chunk of one sequence, after `past` tokens that are in the cache."""

    rows: slice
    slots: Tensor | None  # [past + chunk] int64; None where there is no past and the chunk is all there is
    past: int

    def mask(self, window: int | None) -> Tensor | None:
        """[chunk, past + chunk] of the keys that each row sees; None for plain causal without a past."""
        chunk = self.rows.stop - self.rows.start
        length = self.past + chunk
        windowed = window is not None and window < length
        if not self.past and not windowed:
            return None
        device = None if self.slots is None else self.slots.device
        seen = torch.ones(chunk, length, dtype=torch.bool, device=device).tril(self.past)
        return seen.triu(self.past - window + 1) if windowed and window is not None else seen


@dataclass(slots=True)
class Layout:
    """One step, flat. Masks depend on the layer's window only and are kept for its other layers."""

    tokens: Tensor  # [rows] int64
    positions: Tensor  # [rows] int64
    slots: Tensor  # [rows] int64, where each row's key and value go
    wanted: Tensor  # [wanted] int64, the rows whose logits are asked for
    decode: list[DecodeGroup]
    prefill: list[PrefillSpan]
    pages: list[Pages] = field(default_factory=list)  # instead of one of these, or both; in the order of rows
    _masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    def mask(self, part: DecodeGroup | PrefillSpan, window: int | None) -> Tensor | None:
        """The part's mask for layers with this window."""
        key = (part.rows.start, window)
        if key not in self._masks:
            mask = part.mask(window)
            self._masks[key] = None if mask is None else mask.to(self.tokens.device)
        return self._masks[key]


def lay_out(batch: Batch, device: torch.device, backend: Backend = GATHERED, drawn: Tensor | None = None) -> Layout:
    """The layout of a step over these sequences. `drawn` are the tokens that the batch does not know, on the device."""
    counts, lengths = batch.counts, batch.lengths
    singles = np.flatnonzero(counts == 1)
    singles = singles[np.argsort(lengths[singles])]
    chunks = np.flatnonzero(counts > 1)
    order = np.concatenate((singles, chunks))
    ends = np.cumsum(counts[order])
    rows = np.repeat(batch.starts[order + 1] - ends, counts[order]) + np.arange(batch.num_rows)
    place = np.empty(batch.num_rows, np.int64)
    place[rows] = np.arange(batch.num_rows)
    parts = ((singles, 0, backend.decode), (chunks, len(singles), backend.chunks))
    gathers = [kernel is Kernel.GATHER for _, _, kernel in parts]
    return Layout(
        tokens=filled_in(_to(device, batch.tokens[rows]), drawn),
        positions=_to(device, batch.positions[rows]),
        slots=_to(device, batch.slots[rows]),
        wanted=_to(device, place[batch.wanted]),
        decode=_decode_groups(batch, singles, lengths[singles], device) if gathers[0] else [],
        prefill=_prefill_spans(batch, chunks, len(singles), device) if gathers[1] else [],
        pages=[
            pages_of(batch, sequences, start, kernel, device)
            for sequences, start, kernel in parts
            if kernel is not Kernel.GATHER and len(sequences)
        ],
    )


def filled_in(tokens: Tensor, drawn: Tensor | None) -> Tensor:
    """Tokens [rows], those below 0 by what was drawn: -1 is the first of `drawn`."""
    return tokens if drawn is None else torch.where(tokens < 0, drawn[(-1 - tokens).clamp(min=0)], tokens)


def _decode_groups(batch: Batch, singles: Places, lengths: Ints, device: torch.device) -> list[DecodeGroup]:
    """`singles` are ordered by their `lengths`."""
    groups: list[DecodeGroup] = []
    start = 0
    while start < len(singles):
        end = int(np.searchsorted(lengths, lengths[start] * GROUP_GROWTH + GROUP_SLACK, side="right"))
        rows = slice(start, end)
        width, column = int(lengths[end - 1]), lengths[rows, None].astype(np.int64)
        slots = _padded_slots(batch, singles[rows], column, width)
        groups.append(DecodeGroup(rows, _to(device, slots.reshape(-1)), _to(device, column), width))
        start = end
    return groups


def _padded_slots(batch: Batch, sequences: Places, lengths: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """[sequences, width] slots of all tokens of each; lengths [sequences, 1]"""
    blocks = np.arange(-(-width // batch.block_size))
    own = np.minimum(blocks, (lengths - 1) // batch.block_size)
    slots = _slots(batch.tables[batch.table_starts[sequences, None] + own], batch.block_size)[:, :width]
    return np.where(np.arange(width) < lengths, slots, slots[:, :1])


def _prefill_spans(batch: Batch, chunks: Places, start: int, device: torch.device) -> list[PrefillSpan]:
    parts: list[PrefillSpan] = []
    for i in chunks.tolist():
        past = int(batch.pasts[i])
        rows = slice(start, start + int(batch.starts[i + 1] - batch.starts[i]))
        slots = None
        if past:
            slots = _to(device, _slots(batch.table(i)[None], batch.block_size)[0, : past + rows.stop - rows.start])
        parts.append(PrefillSpan(rows, slots, past))
        start = rows.stop
    return parts


def _slots(tables: Ints, block_size: int) -> NDArray[np.int64]:
    """[sequences, blocks] block ids -> [sequences, blocks * block_size] slots."""
    slots = tables[:, :, None].astype(np.int64) * block_size + np.arange(block_size)
    return slots.reshape(len(tables), -1)


def _to(device: torch.device, numbers: NDArray[np.integer[Any]]) -> Tensor:
    """As int64, which is what torch takes for an index."""
    return upload(numbers.astype(np.int64, copy=False), device)
