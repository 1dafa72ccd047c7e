"""Keys and values in the cache: as the model has them, or as float8, half as large.

Owns: the conversion, and reading and writing by slot, which torch's own indexing does not do for float8. Does not own:
the memory (engine.kv_cache). Called by: layers.attention, layers.fused_ops, layers.kernel_trial.

float8 is e4m3 without a scale, as vLLM's `fp8` is where a checkpoint has none: keys and values of trained models lie
within its 448, and what does not is cut there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
_MOST = torch.finfo(FP8).max


@dataclass(frozen=True, slots=True)
class Place:
    """Where one layer's keys and values of a step go."""

    keys: Tensor  # [slots, kv_heads, head_dim]
    values: Tensor
    slots: Tensor  # [rows] int64

    def put(self, k: Tensor, v: Tensor) -> None:
        """k and v [rows, kv_heads, head_dim]"""
        write(self.keys, self.slots, k)
        write(self.values, self.slots, v)


def pack(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """As they are stored."""
    if dtype is rows.dtype:
        return rows
    # Beyond its range the conversion gives NaN.
    return rows.clamp(-_MOST, _MOST).to(dtype) if dtype is FP8 else rows.to(dtype)


def write(cache: Tensor, slots: Tensor, rows: Tensor) -> None:
    """rows [rows, kv_heads, head_dim] to their slots of cache [slots, kv_heads, head_dim]"""
    packed = pack(rows, cache.dtype)
    if cache.dtype is FP8:
        cache, packed = cache.view(torch.uint8), packed.view(torch.uint8)
    cache.index_copy_(0, slots, packed)


def read(cache: Tensor, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """What lies in these slots, in the type that is computed in."""
    if cache.dtype is FP8:
        return cache.view(torch.uint8).index_select(0, slots).view(FP8).to(dtype)
    return cache.index_select(0, slots)
