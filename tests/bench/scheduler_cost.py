"""What a step costs besides the model: planning, the batch, and what is done with the tokens.

The model costs nothing (it answers zeros), and neither what it takes nor what the draw takes is counted. Every sequence
decodes; each has a text of its own, so that no block is shared, and as many fill a block in each step as do on average.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cortex_neuron.engine import flight
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.sampler import Draw
from cortex_neuron.layers.backend import CPU_BLOCK
from cortex_neuron.layers.batch import Batch
from cortex_neuron.models.loaded import CacheShape, LoadedModel
from cortex_neuron.protocol.frames import SamplingParams, Submit

_RUNNING, _CONTEXTS, _STEPS, _VOCAB = (1, 32, 256), (1 << 10, 1 << 16), 300, 64
_Result = TypeVar("_Result")


def measure() -> dict[str, float]:
    """Milliseconds a step: medians, and the 99th percentile of the largest."""
    figures: dict[str, float] = {}
    took: list[float] = []
    for context in _CONTEXTS:
        for running in _RUNNING:
            took = sorted(_bookkeeping_ms(running, context))
            figures[f"{running}_running_{context >> 10}k_ms"] = took[len(took) // 2]
    figures["largest_p99_ms"] = took[len(took) * 99 // 100]
    return figures


def _bookkeeping_ms(running: int, context: int) -> list[float]:
    engine, elsewhere = _engine(running, context)
    rng = np.random.default_rng(0)
    for number in range(running):
        prompt = rng.integers(0, _VOCAB, context - _STEPS - 50 - number % CPU_BLOCK, np.int32).tobytes()
        engine.submit(Submit(id=number, prompt=prompt, max_tokens=1000, sampling=SamplingParams(temperature=0)))
    while any(not len(each.output) for each in engine._by_id.values()):  # until all decode
        engine.step()
    took = []
    for _ in range(_STEPS):
        elsewhere.spent_s, began = 0.0, time.perf_counter()
        engine.step()
        took.append((time.perf_counter() - began - elsewhere.spent_s) * 1000)
    assert len(engine._by_id) == running, "one has ended"
    return took


def _engine(running: int, context: int) -> tuple[Engine, _Elsewhere]:
    shape = CacheShape(layers=1, kv_heads=1, head_dim=1, dtype=torch.float32)
    model = LoadedModel(nn.Module(), torch.device("cpu"), shape, context, _VOCAB, ())
    size = CacheSize(CPU_BLOCK, running * context // CPU_BLOCK, context)
    elsewhere = _Elsewhere()
    flight.Draw = elsewhere.timing(Draw)  # type: ignore[attr-defined]
    Draw.read = elsewhere.timing(Draw.read)  # type: ignore[method-assign]
    return Engine(model, size, running, 1 << 20, lead=lambda _: elsewhere), elsewhere


class _Elsewhere:
    """The model, and the time that is not the bookkeeping's."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._logits = torch.zeros(max(_RUNNING), _VOCAB)

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab]"""
        return self._logits[: len(batch.wanted)]

    def timing(self, call: Callable[..., _Result]) -> Callable[..., _Result]:
        def timed(*arguments: object) -> _Result:
            began = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.spent_s += time.perf_counter() - began

        return timed
