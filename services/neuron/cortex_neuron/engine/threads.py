"""How many threads a step is worth on this CPU: measured once, at load.

Owns: the measurement and its result. Called by: engine.rank (measures) and engine.runner (asks, each step).

OpenMP threads that do not spin (engine.preload says why) are woken for every matrix product. Where waking is dear, as
on virtual machines, a small model decodes slower with two threads than with one (8 at once: 140 ms for 100), yet takes
prompts faster; where it is cheap, more threads always win. No rule of thumb holds for both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import accumulate, takewhile

import torch
from torch import nn

MEASURED_ROWS = (1, 8, 32)
REPEATS = 3
# Enough weights to come from memory and not from a cache, few enough to be read in some milliseconds.
SAMPLE_WEIGHTS = 10_000_000
# A product this large outlasts any waking: nothing to measure, and too long to try.
LARGE_WEIGHTS = 16_000_000
# More threads must be worth it: they are taken from everything else on the host.
WORTH = 0.9


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """`best` has (rows, threads) by rows; a step of more rows than were measured gets all threads."""

    most: int
    best: tuple[tuple[int, int], ...] = ()

    def threads(self, rows: int) -> int:
        return next((threads for limit, threads in self.best if rows <= limit), self.most)


def measure_threads(module: nn.Module, most: int) -> ThreadPlan:
    """Times the model's own matrix products for a few batch sizes and thread counts; about 0.1 s on two cores."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if most == 1 or any(layer.weight.numel() > LARGE_WEIGHTS for layer in layers[:-1]):
        return ThreadPlan(most)
    sizes = accumulate(layer.weight.numel() for layer in layers)
    sample = [layer for layer, _ in zip(layers, takewhile(lambda size: size <= SAMPLE_WEIGHTS, sizes), strict=False)]
    counts = [1 << i for i in range(most.bit_length()) if 1 << i < most] + [most]
    return ThreadPlan(most, tuple((rows, _best(sample or layers[:1], rows, counts)) for rows in MEASURED_ROWS))


def _best(layers: list[nn.Linear], rows: int, counts: list[int]) -> int:
    times = {count: _seconds(layers, rows, count) for count in counts}
    best = counts[0]
    for count in counts[1:]:
        if times[count] < times[best] * WORTH:
            best = count
    return best


@torch.inference_mode()
def _seconds(layers: list[nn.Linear], rows: int, threads: int) -> float:
    torch.set_num_threads(threads)
    inputs = {width: torch.ones(rows, width) for width in {layer.in_features for layer in layers}}
    return min(_pass(layers, inputs) for _ in range(REPEATS))


def _pass(layers: list[nn.Linear], inputs: dict[int, torch.Tensor]) -> float:
    started_s = time.perf_counter()
    for layer in layers:
        layer(inputs[layer.in_features])
    return time.perf_counter() - started_s
