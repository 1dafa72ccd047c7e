"""Runs the model on one step's batch.

Owns: the model, the cache's tensors and the passing of one to the other. Does not own: what is in the batch, or the
choice among kernels (layers.backend). Called by: engine.engine, once a step.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from cortex_neuron.engine import recording
from cortex_neuron.engine.decode_graphs import Bounds, DecodeGraphs
from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.engine.native_runner import NativeRunner
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.layers import backend, fusing, kernel_trial
from cortex_neuron.layers.attention import PagedStep
from cortex_neuron.layers.backend import Backend, Kernel
from cortex_neuron.layers.batch import Batch
from cortex_neuron.layers.paged import Layout, lay_out
from cortex_neuron.models import experts
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.native.decoder import Decoder


class Runs(Protocol):
    """What computes a batch."""

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted. `drawn` are the tokens that the batch does not know,
        where the model is; an engine whose steps do not overlap has none."""


class Describes(Runs, Protocol):
    """`attends`: by which kernels, in words for the log."""

    attends: str


def runner_for(model: LoadedModel, cache: KVCache, plan: ThreadPlan | None, most_decoding: int | None) -> Describes:
    """What computes batches of this model. `most_decoding`: graphs for so many sequences; None for no graphs."""
    if isinstance(model.module, Decoder):
        return NativeRunner(model.module, cache)
    return Runner(model, cache, plan, most_decoding)


def backend_for(model: LoadedModel) -> Backend:
    """How this model attends here."""
    if model.device.type != "cuda":
        return backend.GATHERED
    config, shape, dtype = model.module.config, model.shape, model.module.dtype
    facts = backend.Facts(
        device=model.device.type,
        capability=torch.cuda.get_device_capability(model.device),
        head_dim=shape.head_dim,
        dtype=dtype,
        cache_dtype=shape.dtype,
        is_capped=getattr(config, "attn_logit_softcapping", None) is not None,
        has_paged_varlen=backend.has_paged_varlen(),
        has_triton=backend.has_triton(),
    )
    tried = kernel_trial.Shape(config.num_attention_heads, shape.kv_heads, shape.head_dim, dtype, shape.dtype)
    return backend.choose(facts, lambda kernel: kernel_trial.fault(kernel, tried, model.device))


def graphs_refusal(model: LoadedModel, attends: Backend, most_decoding: int | None) -> str | None:
    """Why steps of this model are not recorded as graphs; None if they are to be."""
    if model.device.type != "cuda":
        return "they are for CUDA"
    if most_decoding is None:
        return "none are asked for"
    if attends.decode is not Kernel.TRITON:
        return f"decode by {attends.decode.value} looks at lengths on the host"
    if experts.are_chosen_on_host(model.module, model.device):
        return "experts are chosen on the host"
    return None


def bounds_of(sequences: int, size: CacheSize) -> Bounds:
    """Of steps in which so many sequences decode."""
    return Bounds(sequences, -(-size.context // size.block_size), size.block_size)


class Runner:
    """This rank's model on the batch, as torch computes it. `compute` gives logits [wanted, vocab] of what is laid out.

    Of a group every rank makes one at the same time: where graphs are asked for, they come to them together.
    """

    def __init__(
        self, model: LoadedModel, cache: KVCache, plan: ThreadPlan | None, most_decoding: int | None = None
    ) -> None:
        self._plan = plan
        self._model = model
        # Not a method of its own: graphs go with the last reference to this, before the communicator that is in them.
        self.compute = partial(_compute, model, *cache.flat())
        self._backend = backend_for(model)
        self.attends = str(self._backend) + fusing.words(model.module)
        self._graphs: DecodeGraphs | None = None
        refusal = graphs_refusal(model, self._backend, most_decoding)
        if most_decoding is not None:
            refusal = recording.agreed(refusal, model.collectives)
            refusal = refusal or self._record(bounds_of(most_decoding, cache.size))
        self.attends += f"; no graphs: {refusal}" if refusal else "; decode steps are graphs"

    @torch.inference_mode()
    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab] after the rows that are wanted; the next step may overwrite them."""
        if self._graphs is not None and self._graphs.takes(batch):
            return self._graphs.run(batch, drawn)
        if self._plan is not None:
            torch.set_num_threads(self._plan.threads(batch.num_rows))
        return self.compute(lay_out(batch, self._model.device, self._backend, drawn))

    def _record(self, bounds: Bounds) -> str | None:
        """Record the graphs. What they failed of, if the device is well after that: they are for speed alone."""
        graphs = recording.graphs_of(self._model, self.compute, bounds)
        fault = recording.record(graphs, graphs.largest_first, self._model)
        self._graphs = graphs if fault is None else None
        return fault


def _compute(model: LoadedModel, keys: list[Tensor], values: list[Tensor], layout: Layout) -> Tensor:
    out = model.module(
        input_ids=layout.tokens[None],
        position_ids=layout.positions[None],
        use_cache=False,
        logits_to_keep=layout.wanted,
        paged=PagedStep(layout, keys, values),
    )
    logits: Tensor = out.logits[0]
    return logits
