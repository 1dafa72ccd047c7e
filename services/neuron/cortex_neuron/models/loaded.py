"""A model that is in memory: what computes it, and the facts the engine needs of it.

Made by: models.loader. Read by: the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cortex_neuron.layers.parallel import Collectives
from cortex_neuron.native.decoder import Decoder


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one token costs."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`collectives`: those of the ranks that have the other shares of it; None for a whole model."""

    module: Any  # a transformers *ForCausalLM whose attention is layers.attention, or a native Decoder
    device: torch.device
    shape: CacheShape
    context: int  # tokens the model was made for
    vocab_size: int
    eos_ids: tuple[int, ...]
    collectives: Collectives | None = None

    @property
    def num_bytes(self) -> int:
        """Of the weights; tied ones count once."""
        if isinstance(self.module, Decoder):
            return self.module.num_bytes
        tensors = (*self.module.parameters(), *self.module.buffers())
        storages = [each.untyped_storage() for tensor in tensors for each in _parts(tensor)]
        return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def _parts(tensor: Any) -> list[torch.Tensor]:
    """The tensors that one of a class of its own, such as torchao's, is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _parts(getattr(tensor, name))]
