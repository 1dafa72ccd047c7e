"""Runs a step's batch by the native kernels: engine.runner's counterpart.

The cache's memory is that of engine.kv_cache, in an order of its own within a block (native/kernels/attention.h).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cortex_neuron.engine.kv_cache import KVCache
from cortex_neuron.layers.batch import Batch
from cortex_neuron.native.decoder import Decoder, addresses


class NativeRunner:
    """`engine.runner.Describes`."""

    attends = "native kernels"

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self._keys = addresses([layer.data_ptr() for layer in cache.keys])
        self._values = addresses([layer.data_ptr() for layer in cache.values])
        self._cache = cache  # which the addresses are of

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted."""
        assert drawn is None, "a step is done when it returns: there is nothing to overlap"
        return torch.from_numpy(self._decoder.step(batch, self._keys, self._values))
