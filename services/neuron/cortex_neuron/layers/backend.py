"""Which kernels attend: a choice by the device, the model, what is installed and a trial, with its reasons.

Owns: the table of what each kernel cannot do. Does not own: the kernels (layers.attention gathers, layers.page_kernels
has those that read pages), or the trial (layers.kernel_trial). Called by: engine.runner.

The rows of a step that have one new token, and its longer chunks, are attended each by a kernel of their own. So a
token comes out the same whatever shares its step.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch

CPU_BLOCK = 16
GPU_BLOCK = 256  # torch's paged attention takes multiples of this


class Kernel(Enum):
    """What attends. The value is the word for logs."""

    GATHER = "gather"  # torch's attention over copies of the pages: everywhere
    VARLEN = "varlen"  # torch's FlashAttention 2, which reads pages
    TRITON = "triton"  # our own, for one token a sequence: the pages of a sequence are shared among programs


@dataclass(frozen=True, slots=True)
class Facts:
    """`head_dim` and the types are the model's and the cache's, `is_capped` is of its scores (Gemma 2)."""

    device: str
    capability: tuple[int, int]
    head_dim: int
    dtype: torch.dtype
    cache_dtype: torch.dtype
    is_capped: bool
    has_paged_varlen: bool
    has_triton: bool


@dataclass(frozen=True, slots=True)
class Backend:
    """`decode` attends the rows of one new token, `chunks` the longer ones; `reason` says why not others."""

    decode: Kernel
    chunks: Kernel
    block_size: int
    reason: str

    def __str__(self) -> str:
        words = f"decode by {self.decode.value}, chunks by {self.chunks.value}, pages of {self.block_size}"
        return f"{words}; {self.reason}" if self.reason else words


GATHERED = Backend(Kernel.GATHER, Kernel.GATHER, CPU_BLOCK, "")

# Best first; the last one takes everything.
_DECODE = (Kernel.TRITON, Kernel.VARLEN, Kernel.GATHER)
_CHUNKS = (Kernel.VARLEN, Kernel.GATHER)
_HALVES = (torch.float16, torch.bfloat16)
_FP8 = torch.float8_e4m3fn
# Why a kernel is not taken: the first that holds is what is said.
_REFUSALS: tuple[tuple[Kernel, Callable[[Facts], bool], str], ...] = (
    (Kernel.VARLEN, lambda f: not f.has_paged_varlen, "this torch's varlen_attn takes no block table"),
    (Kernel.VARLEN, lambda f: f.capability < (8, 0), "it needs compute capability 8.0"),
    (Kernel.VARLEN, lambda f: f.dtype not in _HALVES, "it takes float16 and bfloat16"),
    (Kernel.VARLEN, lambda f: f.cache_dtype is not f.dtype, "it takes no cache of another type"),
    (Kernel.VARLEN, lambda f: f.head_dim > 256 or f.head_dim % 8 != 0, "it takes heads of up to 256, by 8"),
    (Kernel.VARLEN, lambda f: f.is_capped, "it caps no scores"),
    (Kernel.TRITON, lambda f: not f.has_triton, "triton is not installed"),
    (Kernel.TRITON, lambda f: f.capability < (7, 5), "it needs compute capability 7.5"),
    (Kernel.TRITON, lambda f: f.dtype is torch.bfloat16 and f.capability < (8, 0), "bfloat16 needs 8.0"),
    (Kernel.TRITON, lambda f: f.cache_dtype is _FP8 and f.capability < (8, 9), "a cache in fp8 needs 8.9"),
    (Kernel.TRITON, lambda f: f.head_dim > 256, "it takes heads of up to 256"),
)


def choose(facts: Facts, fault: Callable[[Kernel], str | None]) -> Backend:
    """The best kernels for a model here. `fault` tries one that the table does not refuse: what is wrong, or None."""
    if facts.device != "cuda":
        return GATHERED
    decode, not_decode = _best(_DECODE, facts, fault)
    chunks, not_chunks = _best(_CHUNKS, facts, fault)
    return Backend(decode, chunks, GPU_BLOCK, ", ".join(dict.fromkeys([*not_decode, *not_chunks])))


def _best(kernels: tuple[Kernel, ...], facts: Facts, fault: Callable[[Kernel], str | None]) -> tuple[Kernel, list[str]]:
    """The first that can, and why those before it cannot."""
    reasons: list[str] = []
    for kernel in kernels[:-1]:
        refusal = next((words for each, holds, words in _REFUSALS if each is kernel and holds(facts)), None)
        refusal = refusal or fault(kernel)
        if refusal is None:
            return kernel, reasons
        reasons.append(f"no {kernel.value}: {refusal}")
    return kernels[-1], reasons


@functools.cache
def has_triton() -> bool:
    """CUDA's torch brings it."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def has_paged_varlen() -> bool:
    """torch 2.13 has it; 2.11 has the function without pages, and older ones have nothing of the name."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"block_table", "seqused_k", "num_splits"} <= inspect.signature(varlen_attn).parameters.keys()
