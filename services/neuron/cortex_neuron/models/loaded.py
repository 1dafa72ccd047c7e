"""A model that is in memory: the transformers module and the facts the engine needs of it.

Made by: models.loader. Read by: the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cortex_neuron.engine.kv_cache import CacheShape


@dataclass(frozen=True, slots=True)
class LoadedModel:
    module: Any  # a transformers *ForCausalLM whose attention is layers.attention
    device: torch.device
    shape: CacheShape
    context: int  # tokens the model was made for
    vocab_size: int
    eos_ids: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of the weights; tied ones count once."""
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.module.parameters()}
        return sum(storages.values())
