"""The operations of layers.fused_ops as one kernel each, in Triton.

Owns: the kernels. Does not own: when they are used (layers.fusing). Called by: layers.fused_attention, layers.fused_mlp
and layers.fused_residual, and imported only where Triton is.

They compute in float32 and round once, where torch's operations round after each.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from cortex_neuron.layers.fused_ops import Angles, HeadNorms
from cortex_neuron.layers.stored import FP8, Place

_COLUMNS = 1024  # that a program of `gate` has
_FP8_CAPABILITY = (8, 9)
_MOST_FP8 = torch.finfo(FP8).max


# Triton reads the annotations of a kernel, and knows none but its own.
@triton.jit  # type: ignore[untyped-decorator]
def _turned(  # type: ignore[no-untyped-def]
    heads,
    weight,
    cosines,
    sines,
    epsilon,
    is_read,
    width: tl.constexpr,
    width_pad: tl.constexpr,
    half: tl.constexpr,
    is_normed: tl.constexpr,
):
    """Heads that begin at the pointers `heads` [n, 1], by a row of angles: [n, width_pad] float32."""
    column = tl.arange(0, width_pad)
    x = tl.load(heads + column[None, :], mask=is_read, other=0.0).to(tl.float32)
    share = 1.0
    if is_normed:
        share = tl.rsqrt(tl.sum(x * x, 1) / width + epsilon)[:, None]
        x = x * share * tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    if half > 0:
        # Where nothing is turned the cosine is 1 and the sine 0.
        is_turned = column < 2 * half
        partner = tl.where(column < half, column + half, tl.where(is_turned, column - half, column))
        y = tl.load(heads + partner[None, :], mask=is_read, other=0.0).to(tl.float32)
        if is_normed:
            y = y * share * tl.load(weight + partner, mask=column < width, other=0.0).to(tl.float32)[None, :]
        cosine = tl.load(cosines + column, mask=is_turned, other=1.0).to(tl.float32)[None, :]
        sine = tl.load(sines + column, mask=is_turned, other=0.0).to(tl.float32)
        x = x * cosine + y * tl.where(column < half, -sine, sine)[None, :]
    return x


@triton.jit  # type: ignore[untyped-decorator]
def _turn(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    cosines,
    sines,
    query_weight,
    key_weight,
    slots,
    keys,
    values,
    turned_query,
    turned_key,
    query_row,
    key_row,
    value_row,
    cosine_row,
    sine_row,
    slot_stride,
    head_stride,
    epsilon,
    most,
    group: tl.constexpr,
    group_pad: tl.constexpr,
    width: tl.constexpr,
    width_pad: tl.constexpr,
    half: tl.constexpr,
    num_kv_heads: tl.constexpr,
    is_normed: tl.constexpr,
    is_stored: tl.constexpr,
    is_cut: tl.constexpr,
):
    """One kv head of one row, and the query heads that share it."""
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    column = tl.arange(0, width_pad)[None, :]
    member = tl.arange(0, group_pad)[:, None]
    cosines += row * cosine_row
    sines += row * sine_row

    head = kv_head * group + member
    is_query = (member < group) & (column < width)
    q = _turned(
        query + row * query_row + head * width, query_weight, cosines, sines, epsilon, is_query,
        width, width_pad, half, is_normed,
    )  # fmt: skip
    place = turned_query + (row * num_kv_heads * group + head) * width + column
    tl.store(place, q.to(turned_query.dtype.element_ty), mask=is_query)

    one = tl.arange(0, 1)[:, None]
    is_column = (one < 1) & (column < width)
    k = _turned(
        key + row * key_row + kv_head * width + one, key_weight, cosines, sines, epsilon, is_column,
        width, width_pad, half, is_normed,
    ).to(turned_key.dtype.element_ty)  # fmt: skip
    tl.store(turned_key + (row * num_kv_heads + kv_head) * width + one + column, k, mask=is_column)
    if is_stored:
        v = tl.load(value + row * value_row + kv_head * width + one + column, mask=is_column, other=0.0)
        spot = tl.load(slots + row) * slot_stride + kv_head * head_stride + one + column
        # What is rounded for the cache is what has been rounded for the model, as without this kernel.
        k, v = k.to(tl.float32), v.to(tl.float32)
        if is_cut:
            k, v = tl.minimum(tl.maximum(k, -most), most), tl.minimum(tl.maximum(v, -most), most)
        tl.store(keys + spot, k.to(keys.dtype.element_ty), mask=is_column)
        tl.store(values + spot, v.to(values.dtype.element_ty), mask=is_column)


@triton.jit  # type: ignore[untyped-decorator]
def _gate(gate, up, out, gate_row, up_row, width, num_columns: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * num_columns + tl.arange(0, num_columns)
    is_column = column < width
    g = tl.load(gate + row * gate_row + column, mask=is_column, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + column, mask=is_column, other=0.0).to(tl.float32)
    found = g / (1 + tl.exp(-g)) * u
    tl.store(out + row * width + column, found.to(out.dtype.element_ty), mask=is_column)


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(  # type: ignore[no-untyped-def]
    residual, addend, weight, total, normed, epsilon, width: tl.constexpr, width_pad: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, width_pad)
    is_column = column < width
    place = row * width + column
    x = tl.load(residual + place, mask=is_column, other=0.0).to(tl.float32)
    x += tl.load(addend + place, mask=is_column, other=0.0).to(tl.float32)
    added = x.to(total.dtype.element_ty)
    tl.store(total + place, added, mask=is_column)
    x = added.to(tl.float32)  # the norm is of the sum that goes on
    x = x * tl.rsqrt(tl.sum(x * x, 0) / width + epsilon)
    x = x * tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    tl.store(normed + place, x.to(normed.dtype.element_ty), mask=is_column)


class TritonOps:
    """layers.fused_ops.Ops, a launch each."""

    def turn(
        self, q: Tensor, k: Tensor, v: Tensor, angles: Angles | None, norms: HeadNorms | None, place: Place
    ) -> tuple[Tensor, Tensor]:
        (rows, heads, width), kv_heads = q.shape, k.shape[1]
        assert all(each.stride()[1:] == (width, 1) for each in (q, k, v)), "a row's heads lie together"
        turned_q, turned_k = (each.new_empty(each.shape) for each in (q, k))
        cosines, sines = (angles.cosines, angles.sines) if angles is not None else (q, q)
        is_fp8 = place.keys.dtype is FP8
        is_stored = not is_fp8 or _has_fp8(q.device)
        keys, values = (place.keys, place.values) if is_stored else (turned_k, turned_k)
        assert keys.stride() == values.stride(), "keys and values lie alike"
        assert keys.stride(2) == cosines.stride(-1) == sines.stride(-1) == 1, "last dimensions lie together"
        group = heads // kv_heads
        _turn[rows, kv_heads](
            q, k, v, cosines, sines, norms.query if norms else q, norms.key if norms else k,
            place.slots, keys, values, turned_q, turned_k,
            q.stride(0), k.stride(0), v.stride(0), cosines.stride(0), sines.stride(0),
            keys.stride(0), keys.stride(1),
            norms.epsilon if norms else 0.0, _MOST_FP8,
            group=group, group_pad=triton.next_power_of_2(group), width=width,
            width_pad=triton.next_power_of_2(width), half=cosines.shape[-1] // 2 if angles is not None else 0,
            num_kv_heads=kv_heads, is_normed=norms is not None, is_stored=is_stored, is_cut=is_fp8,
        )  # fmt: skip
        if not is_stored:
            place.put(turned_k, v)
        return turned_q, turned_k

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        width = gate.shape[-1]
        out = gate.new_empty(gate.shape)
        gate, up = gate.flatten(0, -2), up.flatten(0, -2)
        assert gate.stride(1) == up.stride(1) == 1, "last dimensions lie together"
        grid = (gate.shape[0], triton.cdiv(width, _COLUMNS))
        _gate[grid](gate, up, out, gate.stride(0), up.stride(0), width, num_columns=_COLUMNS)
        return out

    def add_norm(self, residual: Tensor, addend: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        residual, addend = residual.contiguous(), addend.contiguous()
        total, normed = torch.empty_like(residual), torch.empty_like(residual)
        width = residual.shape[-1]
        width_pad = triton.next_power_of_2(width)
        _add_norm[(residual.numel() // width,)](
            residual, addend, weight, total, normed, epsilon,
            width=width, width_pad=width_pad, num_warps=num_warps(width_pad),
        )  # fmt: skip
        return total, normed


def num_warps(width: int) -> int:
    """Of a program that has a row of so many numbers: 16 numbers a thread, as far as that goes."""
    return min(16, max(4, width // 512))


@functools.cache
def _has_fp8(device: torch.device) -> bool:
    """Whether a kernel can make them; on a CPU Triton's interpreter does."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY
