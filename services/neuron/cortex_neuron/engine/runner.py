"""Runs the model on one step's batch.

Owns: the model, the cache's tensors and the passing of one to the other. Does not own: what is in the batch, or the
choice among kernels (layers.backend). Called by: engine.engine, once a step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cortex_neuron.engine.kv_cache import KVCache
from cortex_neuron.engine.native_runner import NativeRunner
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.layers import backend
from cortex_neuron.layers.attention import PagedStep
from cortex_neuron.layers.backend import Backend
from cortex_neuron.layers.batch import Batch
from cortex_neuron.layers.paged import Layout, lay_out
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


def backend_for(model: LoadedModel) -> Backend:
    """How this model attends here."""
    if isinstance(model.module, Decoder):
        return backend.NATIVE
    on_cuda = model.device.type == "cuda"
    facts = backend.Facts(
        device=model.device.type,
        capability=torch.cuda.get_device_capability(model.device) if on_cuda else (0, 0),
        head_dim=model.shape.head_dim,
        dtype=model.module.dtype,
        cache_dtype=model.shape.dtype,
        is_capped=getattr(model.module.config, "attn_logit_softcapping", None) is not None,
        has_paged_varlen=backend.has_paged_varlen(),
        has_triton=backend.has_triton(),
    )
    return backend.choose(facts)


class Runner:
    """This rank's model on the batch, as torch computes it. `attends` takes the place of what fits the device best."""

    def __init__(
        self, model: LoadedModel, cache: KVCache, plan: ThreadPlan | None, attends: Backend | None = None
    ) -> None:
        self._plan = plan
        self._model = model
        self._keys, self._values = cache.flat()
        self._backend = attends or backend_for(model)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted."""
        if self._plan is not None:
            torch.set_num_threads(self._plan.threads(batch.num_rows))
        return self._compute(lay_out(batch, self._model.device, self._backend))

    def _compute(self, layout: Layout) -> Tensor:
        out = self._model.module(
            input_ids=layout.tokens[None],
            position_ids=layout.positions[None],
            use_cache=False,
            logits_to_keep=layout.wanted,
            paged=PagedStep(layout, self._keys, self._values),
        )
        logits: Tensor = out.logits[0]
        return logits
