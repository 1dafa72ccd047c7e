"""A kernel tried on this device before a model is served by it: does it run, and does it give what arithmetic gives?

Owns: the trial. Does not own: what follows from it (layers.backend). Called by: engine.runner, once a kernel and shape.

What is installed says little: Triton wants a C compiler when it first runs, and a library may have been built for
other devices. A fault found here costs speed; found by requests, it would cost their answers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.layers import page_kernels, stored
from cortex_neuron.layers.backend import GPU_BLOCK, Kernel
from cortex_neuron.layers.batch import Ints, Tables, make_batch
from cortex_neuron.layers.page_kernels import pages_of

_LENGTHS = (1, 300, 515)  # within a page, over two, over three
_NUM_PAGES = 8
_TOLERANCE = 0.05  # of sums of 300 numbers around 1, in the least exact of the types


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kernel is compiled for."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    cache_dtype: torch.dtype


@functools.cache
def fault(kernel: Kernel, shape: Shape, device: torch.device) -> str | None:
    """What is wrong with it, in words; None if it is right."""
    try:
        worst = _worst_difference(kernel, shape, device)
    except Exception as error:  # noqa: BLE001  whatever it is, there are other kernels
        return f"it failed a trial: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return None if worst < _TOLERANCE else f"it failed a trial: it is {worst:.3g} off"


@torch.inference_mode()
def _worst_difference(kernel: Kernel, shape: Shape, device: torch.device) -> float:
    """One new token a sequence for those that decode, four for those of chunks."""
    rows = 1 if kernel is Kernel.TRITON else 4
    lengths = np.array(_LENGTHS, np.int32) + rows - 1
    counts = np.full(len(lengths), rows, np.int32)
    flat = np.array([3, 5, 0, 6, 1, 2], np.int32)
    tables = Tables(flat, np.array([0, 1, 3], np.int32), GPU_BLOCK)
    batch = make_batch(np.zeros(counts.sum(), np.int32), counts, lengths - counts, tables, counts[:0])
    pages = pages_of(batch, np.arange(len(lengths)), 0, kernel, device)
    random = torch.Generator().manual_seed(1)
    q = torch.randn(batch.num_rows, shape.heads, shape.head_dim, generator=random).to(device, shape.dtype)
    k, v = torch.randn(2, _NUM_PAGES * GPU_BLOCK, shape.kv_heads, shape.head_dim, generator=random).to(device)
    k, v = (stored.pack(each.to(shape.dtype), shape.cache_dtype) for each in (k, v))
    scale = shape.head_dim**-0.5
    found = page_kernels.attend(q, k, v, pages, scale, None, None)
    seen = [
        (row, batch.table(i), int(length) - rows + 1 + each)
        for i, length in enumerate(lengths)
        for each, row in enumerate(range(i * rows, (i + 1) * rows))
    ]
    expected = [_plain(q[row], k, v, table, length, scale) for row, table, length in seen]
    return float((found.float() - torch.stack(expected)).abs().nan_to_num(torch.inf).max())


def _plain(q: Tensor, k: Tensor, v: Tensor, table: Ints, length: int, scale: float) -> Tensor:  # [heads, head_dim]
    at = np.arange(length)
    slots = torch.from_numpy((table[at // GPU_BLOCK] * GPU_BLOCK + at % GPU_BLOCK).astype(np.int64)).to(q.device)
    group = q.shape[0] // k.shape[1]
    keys, values = (each.float()[slots].repeat_interleave(group, 1) for each in (k, v))
    weights = torch.einsum("hd,thd->ht", q.float(), keys).mul(scale).softmax(-1)
    return torch.einsum("ht,thd->hd", weights, values)
