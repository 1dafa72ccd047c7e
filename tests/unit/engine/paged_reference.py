"""Attention over pages by plain torch, one sequence after the other: what the kernels are compared with."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from cortex_neuron.layers.page_kernels import Pages


def attend(
    query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, block_size: int,
    *, scale: float, window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """As layers.triton_decode.attend, in float32."""
    out = torch.zeros_like(query)
    for row, length in enumerate(lengths.tolist()):
        first = 0 if window is None else max(0, length - window)
        if length:
            at = torch.arange(first, length)
            slots = tables[row, at // block_size].long() * block_size + at % block_size
            out[row] = _one(query[row].float(), keys[slots].float(), values[slots].float(), scale, softcap)
    return out


def _one(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
    """q [heads, head_dim], k and v [tokens, kv_heads, head_dim]"""
    group = q.shape[0] // k.shape[1]
    scores = torch.einsum("hd,thd->ht", q, k.repeat_interleave(group, 1)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return torch.einsum("ht,thd->hd", scores.softmax(-1), v.repeat_interleave(group, 1))


def attend_pages(
    q: Tensor, keys: Tensor, values: Tensor, pages: Pages, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """As layers.page_kernels.attend: each row of a chunk is one that decodes at its own length."""
    starts, lengths = pages.starts.tolist(), pages.lengths.tolist()
    counts = [end - start for start, end in itertools.pairwise(starts)]
    each = [length - count + 1 + i for length, count in zip(lengths, counts, strict=True) for i in range(count)]
    tables = pages.tables.repeat_interleave(torch.tensor(counts), 0)
    seen = torch.tensor(each, dtype=torch.int32)
    return attend(q, keys, values, tables, seen, pages.block_size, scale=scale, window=window, softcap=softcap)
