"""Runs a step's batch by the native kernels: engine.runner's counterpart.

Owns: the batch as they take it. The cache's memory is that of engine.kv_cache, in an order of their own within a block
(native/kernels/attention.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cortex_neuron.engine.kv_cache import KVCache
from cortex_neuron.layers.paged import Span
from cortex_neuron.native.decoder import BLOCK, Batch, Decoder, addresses


class NativeRunner:
    """`engine.runner.Runs`."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self._keys = addresses([layer.data_ptr() for layer in cache.keys])
        self._values = addresses([layer.data_ptr() for layer in cache.values])
        self._cache = cache  # which the addresses are of

    def run(self, spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """Logits [wanted, vocab] after the last token of the spans at the indices `wanted`."""
        batch = _batch(spans, wanted)
        return torch.from_numpy(self._decoder.step(batch, self._keys, self._values, self._decoder.threads))


def _batch(spans: Sequence[Span], wanted: Sequence[int]) -> Batch:
    places = [(span.table, position) for span in spans for position in range(span.past, span.length)]
    starts = [0, *accumulate(len(span.tokens) for span in spans)]
    return Batch(
        tokens=_ints(list(chain.from_iterable(span.tokens for span in spans))),
        positions=_ints([position for _, position in places]),
        slots=_ints([table[position // BLOCK] * BLOCK + position % BLOCK for table, position in places]),
        row_starts=_ints(starts),
        pasts=_ints([span.past for span in spans]),
        tables=_ints(list(chain.from_iterable(span.table for span in spans))),
        table_starts=_ints([0, *accumulate(len(span.table) for span in spans)][:-1]),
        wanted=_ints([starts[index + 1] - 1 for index in wanted]),
    )


def _ints(numbers: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(numbers, np.int32)
