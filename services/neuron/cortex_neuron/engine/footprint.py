"""What a model takes of a GPU besides its cache: measured by its largest step, before the cache gets the rest.

Owns: the readings and the sum. Does not own: what is made of it (engine.kv_cache), or that several ranks make the same
of it (engine.part, which calls this). A step is computed by all ranks of a group, so all measure at the same time.

The largest step computes as many rows as a step may have, with a row of logits for each sequence, and does to those
what the sampler does where nothing is filtered. Its cache is one block, in which all tokens come to lie.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from cortex_neuron.engine import recording
from cortex_neuron.engine.decode_graphs import Bounds
from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.engine.runner import Runner, backend_for, bounds_of, graphs_refusal
from cortex_neuron.layers.batch import Batch, Tables, make_batch
from cortex_neuron.models.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Readings:
    """Bytes. `free_before` is of the device before anything of this load was there, `free_after` when all was measured
    and given back; of torch's own memory `kept` is what is left then, a draft model's weights included, `peak` what it
    had at most; `graphs` is all of theirs."""

    free_before: int
    free_after: int
    kept: int
    peak: int
    graphs: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes: all but the cache, and what the device can give a cache."""

    taken: int
    room: int


@dataclass(frozen=True, slots=True)
class Largest:
    """The most that a step has."""

    tokens: int
    sequences: int


def footprint(read: Readings) -> Footprint:
    """What libraries took beside torch's memory is what is missing of the device; others may have given some back."""
    step = read.peak - read.kept
    libraries = max(0, read.free_before - read.free_after - read.kept)
    return Footprint(read.kept + step + libraries + read.graphs, max(0, read.free_after - step - read.graphs))


def measure(model: LoadedModel, largest: Largest, context: int, free_before: int) -> Footprint:
    """Run the largest step on the GPU, and record two graphs, of which the second tells what one more costs."""
    device = model.device
    block_size = backend_for(model).block_size
    cache = KVCache(model.shape, CacheSize(block_size, 1, context), device)
    runner = Runner(model, cache, None)
    torch.cuda.reset_peak_memory_stats(device)
    run_largest(runner, largest, block_size)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device)
    graphs = _graph_bytes(model, runner, bounds_of(largest.sequences, cache.size))
    del cache, runner
    torch.cuda.empty_cache()
    free_after, _ = torch.cuda.mem_get_info(device)
    return footprint(Readings(free_before, free_after, torch.cuda.memory_reserved(device), peak, graphs))


@torch.inference_mode()
def run_largest(runner: Runner, largest: Largest, block_size: int) -> None:
    """Its logits are thrown away."""
    logits = runner.run(largest_batch(largest, block_size)).float()
    weights = (logits / 1.0).softmax(-1)
    weights.cumsum(-1, dtype=torch.float64)


def largest_batch(largest: Largest, block_size: int) -> Batch:
    """One text, whose last rows are all wanted; its table names one block again and again."""
    blocks = -(-largest.tokens // block_size)
    one = np.ones(1, np.int32)
    wanted = np.arange(max(0, largest.tokens - largest.sequences), largest.tokens, dtype=np.int32)
    tables = Tables(np.zeros(blocks, np.int32), one * 0, block_size)
    return make_batch(np.zeros(largest.tokens, np.int32), one * largest.tokens, one * 0, tables, wanted)


def _graph_bytes(model: LoadedModel, runner: Runner, bounds: Bounds) -> int:
    """Of all graphs; 0 where there will be none, as the runner will find, too, and say."""
    refusal = graphs_refusal(model, backend_for(model), bounds.sequences)
    if recording.agreed(refusal, model.collectives) is not None:
        return 0
    device = model.device
    torch.cuda.empty_cache()
    graphs = recording.graphs_of(model, runner.compute, bounds)
    free = [torch.cuda.mem_get_info(device)[0]]
    for size in graphs.largest_first[:2]:
        if recording.record(graphs, [size], model) is not None:
            return 0
        torch.cuda.synchronize(device)
        free.append(torch.cuda.mem_get_info(device)[0])
    first, *others = (max(0, before - after) for before, after in itertools.pairwise(free))
    graphs.drop()
    return first + sum(others) * (len(graphs.sizes) - 1)
