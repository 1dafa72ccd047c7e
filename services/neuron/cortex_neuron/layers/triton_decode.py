"""Attention of one new token a sequence over pages, in Triton: flash-decoding (arXiv 2311.01282) over a block table.

Owns: the kernels. Does not own: when they are used (layers.backend). Called by: layers.page_kernels, and imported only
there and only where Triton is.

A program reads one part of a sequence's tokens for one kv head and all query heads that share it; a second kernel puts
the parts together. Nothing on the host depends on how long the sequences are, so that a launch can be captured in a
graph: a row of length 0, which only pads a batch, comes out as zeros.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_BYTES = 16384  # of the keys that a program looks at together: twice that, and as much of values, is in flight
_MOST_PARTS = 16
# Enough programs for every multiprocessor of a large GPU to have two; not measured.
_PROGRAMS = 256
_LEAST_ROWS = 16  # of a matrix that the tensor cores take


# Triton reads the annotations of a kernel, and knows none but its own.
@triton.jit  # type: ignore[untyped-decorator]
def _attend_part(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    tables,
    lengths,
    peaks,
    sums,
    parts,
    query_row,
    query_head,
    slot_stride,
    head_stride,
    table_row,
    scale,
    cap,
    window,
    group: tl.constexpr,
    group_pad: tl.constexpr,
    width: tl.constexpr,
    width_pad: tl.constexpr,
    block_size: tl.constexpr,
    num_tokens: tl.constexpr,
    num_parts: tl.constexpr,
    num_kv_heads: tl.constexpr,
    is_capped: tl.constexpr,
    is_windowed: tl.constexpr,
):
    """Scores of one part, their peak and sum, and the values weighted by them, not yet divided."""
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    part = tl.program_id(2)
    length = tl.load(lengths + row)
    first = 0
    if is_windowed:
        first = tl.maximum(length - window, 0)
    share = tl.cdiv(tl.cdiv(length - first, num_parts), num_tokens) * num_tokens
    begin = first + part * share
    end = tl.minimum(begin + share, length)

    member = tl.arange(0, group_pad)
    column = tl.arange(0, width_pad)
    is_query = (member < group)[:, None] & (column < width)[None, :]
    head = kv_head * group + member
    q = tl.load(query + row * query_row + head[:, None] * query_head + column[None, :], mask=is_query, other=0.0)
    peak = tl.full([group_pad], float("-inf"), tl.float32)
    total = tl.zeros([group_pad], tl.float32)
    out = tl.zeros([group_pad, width_pad], tl.float32)
    for at in range(begin, end, num_tokens):
        token = at + tl.arange(0, num_tokens)
        is_seen = token < end
        block = tl.load(tables + row * table_row + token // block_size, mask=is_seen, other=0).to(tl.int64)
        place = (block * block_size + token % block_size) * slot_stride + kv_head * head_stride
        is_stored = is_seen[:, None] & (column < width)[None, :]
        k = tl.load(keys + place[:, None] + column[None, :], mask=is_stored, other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if is_capped:
            scores = cap * (1 - 2 / (tl.exp(2 * scores / cap) + 1))  # tanh
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(peak - higher)
        v = tl.load(values + place[:, None] + column[None, :], mask=is_stored, other=0.0).to(q.dtype)
        total = total * fade + tl.sum(weights, 1)
        out = out * fade[:, None] + tl.dot(weights.to(q.dtype), v, input_precision="ieee")
        peak = higher

    spot = ((row * num_kv_heads + kv_head) * num_parts + part) * group + member
    tl.store(peaks + spot, peak, mask=member < group)
    tl.store(sums + spot, total, mask=member < group)
    tl.store(parts + spot[:, None] * width + column[None, :], out, mask=is_query)


@triton.jit  # type: ignore[untyped-decorator]
def _join_parts(  # type: ignore[no-untyped-def]
    peaks,
    sums,
    parts,
    out,
    group: tl.constexpr,
    width: tl.constexpr,
    width_pad: tl.constexpr,
    num_parts: tl.constexpr,
    num_kv_heads: tl.constexpr,
):
    """One query head of one row."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.arange(0, num_parts)
    column = tl.arange(0, width_pad)
    spot = ((row * num_kv_heads + head // group) * num_parts + part) * group + head % group
    peak = tl.load(peaks + spot)
    highest = tl.max(peak, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)  # a row without tokens
    weights = tl.exp(peak - highest)
    total = tl.sum(weights * tl.load(sums + spot), 0)
    is_column = column < width
    read = tl.load(parts + spot[:, None] * width + column[None, :], mask=is_column[None, :], other=0.0)
    found = tl.sum(read * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    place = out + (row * num_kv_heads * group + head) * width + column
    tl.store(place, found.to(out.dtype.element_ty), mask=is_column)


def attend(
    query: Tensor,  # [rows, heads, head_dim]
    keys: Tensor,  # [slots, kv_heads, head_dim]
    values: Tensor,
    tables: Tensor,  # [rows, blocks] int32
    lengths: Tensor,  # [rows] int32
    block_size: int,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """[rows, heads, head_dim]; each row sees the tokens of its sequence, itself included, that its window reaches."""
    rows, heads, width = query.shape
    kv_heads = keys.shape[1]
    assert query.stride(2) == keys.stride(2) == tables.stride(1) == 1, "last dimensions lie together"
    assert keys.stride() == values.stride(), "keys and values lie alike"
    group, num_parts, width_pad = heads // kv_heads, _num_parts(rows * kv_heads), triton.next_power_of_2(width)
    shape = (rows, kv_heads, num_parts, group)
    peaks = torch.empty(shape, dtype=torch.float32, device=query.device)
    sums, parts = torch.empty_like(peaks), peaks.new_empty(*shape, width)
    out = torch.empty(rows, heads, width, dtype=query.dtype, device=query.device)
    _attend_part[rows, kv_heads, num_parts](
        query, keys, values, tables, lengths, peaks, sums, parts,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), tables.stride(0),
        scale, softcap or 1.0, window or 0,
        group=group, group_pad=max(_LEAST_ROWS, triton.next_power_of_2(group)), width=width, width_pad=width_pad,
        block_size=block_size, num_tokens=num_tokens(width_pad, query.dtype), num_parts=num_parts,
        num_kv_heads=kv_heads, is_capped=softcap is not None, is_windowed=window is not None,
    )  # fmt: skip
    _join_parts[rows, heads](
        peaks, sums, parts, out,
        group=group, width=width, width_pad=width_pad, num_parts=num_parts, num_kv_heads=kv_heads,
    )  # fmt: skip
    return out


def num_tokens(width: int, dtype: torch.dtype) -> int:
    """That a program looks at together: 16, which a matrix product takes at least, to 64."""
    return min(64, max(16, _TILE_BYTES // (width * dtype.itemsize)))


def _num_parts(programs: int) -> int:
    """A power of two, so that all programs together keep the device busy."""
    parts = 1
    while parts < _MOST_PARTS and programs * parts < _PROGRAMS:
        parts *= 2
    return parts
