"""The paged KV cache: how many blocks there are, and the tensors.

Owns: sizing and the memory. Does not own: which blocks are free (engine.block_pool). Called by: engine.engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.models.loaded import CacheShape
from cortex_neuron.native.huge_pages import HugePages
from cortex_neuron.protocol.failures import CannotLoad

MIN_CONTEXT = 256  # tokens; a cache for less than this serves nobody
_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheSize:
    """`context`: tokens that one sequence may reach."""

    block_size: int
    num_blocks: int
    context: int

    def cut_to(self, num_blocks: int) -> CacheSize:
        """What whoever has room for so many blocks, which are no more, came to from the same demand."""
        return CacheSize(self.block_size, num_blocks, min(self.context, num_blocks * self.block_size))


@dataclass(frozen=True, slots=True)
class Demand:
    """What the load asks for. `context` None: what the model can do, as far as it fits.

    `room`: bytes that the device has for a cache, where that was measured. `draft_bytes` are the weights of a draft
    model, `draft_token_bytes` what a token takes in its cache.
    """

    vram_mb: int
    context: int | None
    model_context: int
    max_sequences: int
    room: int | None = None
    draft_bytes: int = 0
    draft_token_bytes: int = 0


def size_cache(shape: CacheShape, weight_bytes: int, demand: Demand, block_size: int) -> CacheSize:
    """Blocks for what the weights leave of `vram_mb`, at most `max_sequences` whole contexts. Raises CannotLoad.

    Where it was measured `weight_bytes` is all that is taken besides the cache.
    """
    weight_bytes += demand.draft_bytes
    budget = demand.vram_mb * _MB - weight_bytes
    if demand.room is not None:
        budget = min(budget, demand.room)
    block_bytes = (shape.token_bytes + demand.draft_token_bytes) * block_size
    affordable = max(0, budget // block_bytes)
    least = min(demand.model_context, MIN_CONTEXT) if demand.context is None else demand.context
    if demand.context is not None and demand.context > demand.model_context:
        raise CannotLoad(f"context {demand.context} is more than the {demand.model_context} tokens of the model")
    if affordable * block_size < least:
        cache_bytes = -(-least // block_size) * block_bytes
        raise CannotLoad(_too_little(weight_bytes, demand, cache_bytes, least, block_bytes // block_size))
    context = min(demand.context or demand.model_context, affordable * block_size)
    wanted = demand.max_sequences * -(-context // block_size)
    return CacheSize(block_size, min(affordable, wanted), context)


def _too_little(weight_bytes: int, demand: Demand, cache_bytes: int, tokens: int, token_bytes: int) -> str:
    cache = f"a KV cache for one sequence of {tokens} tokens"
    each = f"({token_bytes} bytes a token){', a draft model included' if demand.draft_token_bytes else ''}"
    if demand.room is not None and demand.room < min(cache_bytes, demand.vram_mb * _MB - weight_bytes):
        return (
            f"the device has {demand.room // _MB} MiB left beside the model, and {cache} takes "
            f"{-(-cache_bytes // _MB)} MiB {each}"
        )
    taking = "the weights take" if demand.room is None else "the weights and the largest step take"
    return (
        f"vram_mb {demand.vram_mb} is too little: {taking} {weight_bytes // _MB} MiB, and {cache} makes it "
        f"{-(-(weight_bytes + cache_bytes) // _MB)} MiB {each}"
    )


class KVCache:
    """The tensors: a layer's keys, and its values, are [blocks, block_size, kv_heads, head_dim].

    The native kernels have an order of their own within a block (native/kernels/attention.h).
    """

    def __init__(self, shape: CacheShape, size: CacheSize, device: torch.device) -> None:
        self.size = size
        dims = (size.num_blocks, size.block_size, shape.kv_heads, shape.head_dim)
        self.num_bytes = shape.token_bytes * size.block_size * size.num_blocks
        if device.type == "cpu" and shape.dtype is torch.float32:
            # Pages are made when they are first used; torch would write gigabytes now, and into small ones.
            memory = HugePages(self.num_bytes)
            one = self.num_bytes // (2 * shape.layers)
            layers = [torch.from_numpy(memory.take(one).view(np.float32)).view(dims) for _ in range(2 * shape.layers)]
        else:
            layers = [torch.zeros(dims, dtype=shape.dtype, device=device) for _ in range(2 * shape.layers)]
        self.keys, self.values = layers[: shape.layers], layers[shape.layers :]

    def flat(self) -> tuple[list[Tensor], list[Tensor]]:
        """Views by slot: [blocks * block_size, kv_heads, head_dim] a layer."""
        return [k.flatten(0, 1) for k in self.keys], [v.flatten(0, 1) for v in self.values]
