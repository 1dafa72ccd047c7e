"""One rank's part of a model, brought up: the weights it holds and the size of the cache that goes with them.

Owns: what a `load` frame means for one rank. Does not own: reading (models.loader) or the cache's memory
(engine.kv_cache). Called by: engine.rank and engine.worker. On a GPU each rank measures what is left of its share of
the memory; then all take the size of the one that has room for least.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cortex_neuron.engine import footprint
from cortex_neuron.engine.communicator import Communicator
from cortex_neuron.engine.kv_cache import CacheSize, Demand, size_cache
from cortex_neuron.engine.runner import backend_for
from cortex_neuron.engine.scheduler import most_step_tokens
from cortex_neuron.engine.threads import ThreadPlan, measure_threads
from cortex_neuron.layers.stored import FP8
from cortex_neuron.models.devices import free_bytes
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import Load, Loaded

_CPU_STEP_TOKENS = 256
_GPU_STEP_TOKENS = 2048
_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """`step_tokens`: the most tokens of a step; `threads`: those of a step, on a CPU that was measured."""

    model: LoadedModel
    size: CacheSize
    step_tokens: int
    threads: ThreadPlan | None


def bring_up(frame: Load, rank: int, communicator: Communicator | None, progress: Callable[[str, float], None]) -> Part:
    """Load this rank's part; without a communicator, that is the whole model. Raises CannotLoad."""
    threads = num_threads(frame)
    torch.set_num_threads(threads)
    free = communicator.free_before if communicator is not None else free_bytes(frame.devices[rank])
    model = load(frame.source, frame.devices[rank], frame.quant, frame.text_dir, threads, progress, communicator)
    progress("cache", 0.9)
    on_cpu = model.device.type == "cpu"
    if frame.kv_cache_dtype is not None:
        model = with_fp8_cache(model)
    step_tokens = frame.max_step_tokens or (_CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS)
    size = _cache_size(frame, model, step_tokens, free)
    if communicator is not None:
        size = size.cut_to(communicator.smallest(size.num_blocks))
    # To measure threads is to run the model, which one rank alone cannot.
    measured = None
    if isinstance(model.module, Decoder):
        # It has threads of its own. To wake torch's would take longer than what is left for them.
        torch.set_num_threads(1)
    elif on_cpu and communicator is None:
        measured = measure_threads(model.module, threads)
    return Part(model, size, step_tokens, measured)


def _cache_size(frame: Load, model: LoadedModel, step_tokens: int, free_before: int) -> CacheSize:
    """By what this rank has room for. Raises CannotLoad."""
    demand = Demand(frame.vram_mb // len(frame.devices), frame.context, model.context, frame.max_sequences)
    taken = model.num_bytes
    if (draft := frame.speculative) is not None:
        demand = replace(demand, draft_bytes=draft.weight_bytes, draft_token_bytes=draft.token_bytes)
    if model.device.type != "cpu":
        largest = footprint.Largest(most_step_tokens(step_tokens, frame.max_sequences), frame.max_sequences)
        found = footprint.measure(model, largest, frame.context or model.context, free_before)
        # A draft model's weights are there already, on the rank that has it, and measured with the rest.
        taken, demand = found.taken, replace(demand, room=found.room, draft_bytes=0)
    return size_cache(model.shape, taken, demand, backend_for(model).block_size)


def with_fp8_cache(model: LoadedModel) -> LoadedModel:
    """The model with a cache of half the size. Raises CannotLoad on a CPU, whose kernels have no such cache."""
    if model.device.type == "cpu":
        raise CannotLoad("kv_cache_dtype 'fp8' is for GPUs; expected none on a CPU")
    return replace(model, shape=replace(model.shape, dtype=FP8))


def num_threads(frame: Load) -> int:
    """Of one rank."""
    return max(1, (frame.cpu_threads or len(os.sched_getaffinity(0))) // len(frame.devices))


def loaded(seq: int, part: Part, cache_bytes: int, attends: str, draft_bytes: int = 0) -> Loaded:
    """What is said of it. `attends`: by what, in words; `draft_bytes` of `cache_bytes` are a draft model's weights."""
    model, size = part.model, part.size
    num_bytes = model.num_bytes + cache_bytes
    if model.device.type == "cuda":
        num_bytes = torch.cuda.memory_reserved(model.device)
    return Loaded(
        seq=seq,
        vram_mb=-(-num_bytes // _MB),
        context=size.context,
        vocab_size=model.vocab_size,
        block_size=size.block_size,
        kv_blocks=size.num_blocks,
        eos_ids=list(model.eos_ids),
        weights_mb=-(-(model.num_bytes + draft_bytes) // _MB),
        backend=attends,
    )
