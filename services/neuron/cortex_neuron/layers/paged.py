"""Where the tokens of one step lie in the paged KV cache: every index tensor that attention needs, made once a step.

Owns: the step's layout. Does not own: the choice of what runs (engine.scheduler) or the arithmetic (layers.attention).
Called by: engine.runner, once a step; read by layers.attention in every layer.

The batch is flat: one row a token. Sequences with one new token come first, ordered by length and cut into groups of
about the same length, so that padding stays small; longer chunks follow, one sequence after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# A group of single-token rows is cut where the next sequence is longer than this factor plus a block's worth.
GROUP_GROWTH = 1.5
GROUP_SLACK = 64


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's part of a step: `tokens` follow the `past` ones that are in the cache; `table` has its blocks."""

    tokens: Sequence[int]
    past: int
    table: Sequence[int]

    @property
    def length(self) -> int:
        """Tokens in the cache once the step has run."""
        return self.past + len(self.tokens)


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
    last: Tensor  # [sequences] int64, the last row of each sequence, in the order of `order`
    order: list[int]  # indices into the spans that the layout was made from
    decode: list[DecodeGroup]
    prefill: list[PrefillSpan]
    _masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    def mask(self, part: DecodeGroup | PrefillSpan, window: int | None) -> Tensor | None:
        """The part's mask for layers with this window."""
        key = (part.rows.start, window)
        if key not in self._masks:
            mask = part.mask(window)
            self._masks[key] = None if mask is None else mask.to(self.tokens.device)
        return self._masks[key]


def lay_out(spans: Sequence[Span], block_size: int, device: torch.device) -> Layout:
    """The layout of a step over these sequences."""
    singles = sorted((i for i, span in enumerate(spans) if len(span.tokens) == 1), key=lambda i: spans[i].length)
    chunks = [i for i, span in enumerate(spans) if len(span.tokens) > 1]
    order = singles + chunks
    rows = [_rows(spans[i], block_size) for i in order]
    ends = torch.tensor([len(tokens) for tokens, _, _ in rows]).cumsum(0)
    flat = torch.tensor([[x for row in rows for x in row[part]] for part in range(3)]).to(device)
    return Layout(
        tokens=flat[0],
        positions=flat[1],
        slots=flat[2],
        last=(ends - 1).to(device),
        order=order,
        decode=_decode_groups([spans[i] for i in singles], block_size, device),
        prefill=_prefill_spans([spans[i] for i in chunks], len(singles), block_size, device),
    )


def _rows(span: Span, block_size: int) -> tuple[list[int], list[int], list[int]]:
    positions = list(range(span.past, span.length))
    slots = [span.table[p // block_size] * block_size + p % block_size for p in positions]
    return list(span.tokens), positions, slots


def _decode_groups(spans: list[Span], block_size: int, device: torch.device) -> list[DecodeGroup]:
    groups: list[DecodeGroup] = []
    start = 0
    for end in range(1, len(spans) + 1):
        shortest = spans[start].length
        if end == len(spans) or spans[end].length > shortest * GROUP_GROWTH + GROUP_SLACK:
            groups.append(_decode_group(spans[start:end], start, block_size, device))
            start = end
    return groups


def _decode_group(spans: list[Span], start: int, block_size: int, device: torch.device) -> DecodeGroup:
    width = spans[-1].length
    num_blocks = -(-width // block_size)
    tables = [[*span.table, *[0] * (num_blocks - len(span.table))] for span in spans]
    lengths = torch.tensor([[span.length] for span in spans])
    slots = _table_slots(torch.tensor(tables), block_size)[:, :width]
    slots = torch.where(torch.arange(width) < lengths, slots, slots[:, :1])
    return DecodeGroup(slice(start, start + len(spans)), slots.flatten().to(device), lengths.to(device), width)


def _prefill_spans(spans: list[Span], start: int, block_size: int, device: torch.device) -> list[PrefillSpan]:
    parts: list[PrefillSpan] = []
    for span in spans:
        rows = slice(start, start + len(span.tokens))
        slots = None
        if span.past:
            slots = _table_slots(torch.tensor([list(span.table)]), block_size)[0, : span.length].to(device)
        parts.append(PrefillSpan(rows, slots, span.past))
        start = rows.stop
    return parts


def _table_slots(tables: Tensor, block_size: int) -> Tensor:
    """[sequences, blocks] block ids -> [sequences, blocks * block_size] slots."""
    return (tables[:, :, None] * block_size + torch.arange(block_size)).flatten(1)
