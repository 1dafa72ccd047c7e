"""A model that embeds or ranks, brought up: its weights, and the room that a load leaves a batch.

Owns: what a `load` frame means for such a model. Does not own: reading (models.vector_loader). Called by: engine.rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cortex_neuron.models.vector_model import VectorModel
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import Load, Loaded

_CPU_STEP_TOKENS = 256
_GPU_STEP_TOKENS = 8192
_MIN_CONTEXT = 256  # tokens; as of a KV cache
_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the memory. `is_fixed`: the whole context or nothing."""

    context: int
    step_tokens: int
    is_fixed: bool


@dataclass(frozen=True, slots=True)
class VectorPart:
    """`context`: tokens of the longest text; `step_tokens`: of a batch of several, padding included."""

    model: VectorModel
    context: int
    step_tokens: int
    step_bytes: int  # that a step may take beside the weights


def bring_up(frame: Load, progress: Callable[[str, float], None]) -> VectorPart:
    """Load the model, and see what room it leaves. Raises CannotLoad."""
    if len(frame.devices) != 1:
        raise CannotLoad(f"task {frame.task} is not divided: it takes 1 device, not {len(frame.devices)}")
    from cortex_neuron.models import vector_loader  # and with it transformers' classes: see models.module_loader

    threads = max(1, frame.cpu_threads or len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    model = vector_loader.load(frame, threads, progress)
    progress("room", 0.9)
    step_tokens = frame.max_step_tokens or (_CPU_STEP_TOKENS if model.device.type == "cpu" else _GPU_STEP_TOKENS)
    demand = Demand(model.context, step_tokens, is_fixed=frame.context is not None)
    token_bytes = _token_bytes(model.module.config, model.module.dtype)
    context, step_tokens = fit(demand, token_bytes, frame.vram_mb * _MB - model.num_bytes)
    return VectorPart(model, context, step_tokens, max(context, step_tokens) * token_bytes)


def _token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Of one layer at a time: what goes in and out, queries, keys, values and their like, and the feed-forward's."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int((8 * config.hidden_size + 3 * inner) * dtype.itemsize)


def fit(demand: Demand, token_bytes: int, left: int) -> tuple[int, int]:
    """Context and step tokens that fit into the `left` bytes. Raises CannotLoad."""
    affordable = left // token_bytes
    least = demand.context if demand.is_fixed else min(demand.context, _MIN_CONTEXT)
    if affordable < least:
        raise CannotLoad(
            f"vram_mb is too little: the weights leave {max(0, left) // _MB} MiB of it, and a text of {least} tokens "
            f"takes {-(-least * token_bytes // _MB)} MiB ({token_bytes} bytes a token)"
        )
    return min(demand.context, affordable), min(demand.step_tokens, affordable)


def loaded(seq: int, part: VectorPart) -> Loaded:
    """What is said of it."""
    return Loaded(
        seq=seq,
        vram_mb=-(-(part.model.num_bytes + part.step_bytes) // _MB),
        context=part.context,
        vocab_size=part.model.vocab_size,
        block_size=0,
        kv_blocks=0,
        eos_ids=[],
        vector_size=part.model.size,
        weights_mb=-(-part.model.num_bytes // _MB),
    )
