"""Runs the model on one step's batch.

Owns: the model, the cache's tensors and the passing of one to the other. Does not own: what is in the batch.
Called by: engine.engine, once a step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cortex_neuron.engine.kv_cache import KVCache
from cortex_neuron.engine.native_runner import NativeRunner
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.layers.attention import PagedStep
from cortex_neuron.layers.batch import Batch
from cortex_neuron.layers.paged import lay_out
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.native.decoder import Decoder


class Runs(Protocol):
    """What computes a batch."""

    def run(self, batch: Batch) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted."""


def runner_for(model: LoadedModel, cache: KVCache, plan: ThreadPlan | None) -> Runs:
    """What computes batches of this model."""
    if isinstance(model.module, Decoder):
        return NativeRunner(model.module, cache)
    return Runner(model, cache, plan)


class Runner:
    """This rank's model on the batch, as torch computes it."""

    def __init__(self, model: LoadedModel, cache: KVCache, plan: ThreadPlan | None) -> None:
        self._plan = plan
        self._model = model
        self._keys, self._values = cache.flat()

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted."""
        if self._plan is not None:
            torch.set_num_threads(self._plan.threads(batch.num_rows))
        layout = lay_out(batch, self._model.device)
        out = self._model.module(
            input_ids=layout.tokens[None],
            position_ids=layout.positions[None],
            use_cache=False,
            logits_to_keep=layout.wanted,
            paged=PagedStep(layout, self._keys, self._values),
        )
        logits: Tensor = out.logits[0]
        return logits
