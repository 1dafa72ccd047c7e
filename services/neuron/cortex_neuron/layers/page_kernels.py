"""Attention by kernels that read the cache's pages where they lie: what they take, and the calls.

Owns: block tables and lengths as tensors. Does not own: the choice among kernels (layers.backend), or Triton's code.
Called by: layers.paged (makes) and layers.attention (attends).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.layers.backend import Kernel
from cortex_neuron.layers.batch import Batch, Ints, Places
from cortex_neuron.layers.transfer import upload


@dataclass(frozen=True, slots=True)
class Pages:
    """Some sequences of a step, whose rows of the flat batch lie together. The maxima stay on the host."""

    kernel: Kernel
    rows: slice
    block_size: int
    tables: Tensor  # [sequences, blocks] int32
    lengths: Tensor  # [sequences] int32, with this step's tokens
    starts: Tensor  # [sequences + 1] int32, each one's first among the rows
    seen_starts: Tensor  # [sequences + 1] int32, running sum of the lengths
    most_rows: int
    most_length: int


def pages_of(batch: Batch, sequences: Places, start: int, kernel: Kernel, device: torch.device) -> Pages:
    """Of these sequences, of which the first one's first row is `start`."""
    counts, lengths = batch.counts[sequences], batch.lengths[sequences]
    pieces = [padded_tables(batch, sequences), lengths, _running(counts), _running(lengths)]
    flat = np.concatenate([piece.ravel() for piece in pieces])
    sent = upload(flat, device).split([piece.size for piece in pieces])  # one copy
    return Pages(
        kernel=kernel,
        rows=slice(start, start + int(counts.sum())),
        block_size=batch.block_size,
        tables=sent[0].view(pieces[0].shape),
        lengths=sent[1],
        starts=sent[2],
        seen_starts=sent[3],
        most_rows=int(counts.max()),
        most_length=int(lengths.max()),
    )


def padded_tables(batch: Batch, sequences: Places) -> Ints:
    """[sequences, most blocks of one] int32; a shorter one repeats its last."""
    last = (batch.lengths[sequences] - 1) // batch.block_size
    places = np.minimum(np.arange(int(last.max()) + 1, dtype=np.int32), last[:, None])
    return batch.tables[batch.table_starts[sequences, None] + places]


def _running(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)


def attend(
    q: Tensor, keys: Tensor, values: Tensor, pages: Pages, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """q [rows of the pages, heads, head_dim], keys and values by slot -> [rows, heads, head_dim]"""
    if pages.kernel is Kernel.TRITON:
        from cortex_neuron.layers import triton_decode  # where Triton is

        found: Tensor = triton_decode.attend(
            q, keys, values, pages.tables, pages.lengths, pages.block_size,
            scale=scale, window=window, softcap=softcap,
        )  # fmt: skip
        return found
    assert pages.kernel is Kernel.VARLEN, "what gathers takes no pages"
    assert softcap is None, "it is not chosen where scores are capped"
    return _varlen(q, keys, values, pages, scale, window)


def _varlen(q: Tensor, keys: Tensor, values: Tensor, pages: Pages, scale: float, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    call: Any = varlen_attn  # torch 2.11's takes less; it is not chosen there
    found: Tensor = call(
        q,
        keys.unflatten(0, (-1, pages.block_size)),
        values.unflatten(0, (-1, pages.block_size)),
        pages.starts,
        pages.seen_starts,
        pages.most_rows,
        pages.most_length,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),  # (-1, 0) is causal
        enable_gqa=True,
        seqused_k=pages.lengths,
        block_table=pages.tables,
        num_splits=1,  # more, over pages, leaves rows unwritten: pytorch issue 194167
    )
    return found
