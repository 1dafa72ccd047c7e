"""Ranks of a group as threads of one process, and texts that go through a model's runner on each of them.

gloo lets go of the interpreter while it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cortex_neuron.engine.communicator import Communicator, Rendezvous, join
from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.engine.runner import Runner
from cortex_neuron.layers.batch import Ints, Tables, make_batch
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load

T = TypeVar("T")

TIMEOUT_S = 30.0
BLOCK, CHUNK = 16, 24


class Ranks:
    """A group, its ranks in threads."""

    def __init__(self, world_size: int) -> None:
        meeting = Rendezvous(TIMEOUT_S)
        stores = [meeting.store, *[None] * (world_size - 1)]
        with ThreadPoolExecutor(world_size) as pool:
            self.communicators = list(
                pool.map(
                    lambda rank: join(str(meeting.id), rank, world_size, "cpu", TIMEOUT_S, stores[rank]),
                    range(world_size),
                )
            )

    def load(self, source: Path, text_dir: Path) -> list[LoadedModel]:
        """Each rank's share, one after the other."""
        return [load(str(source), "cpu", None, str(text_dir), 1, lambda *_: None, each) for each in self.communicators]

    def run(self, work: Callable[[int, Communicator], T]) -> list[T]:
        """All at once; when one fails, none waits for it."""
        with ThreadPoolExecutor(len(self.communicators)) as pool:
            waits = [pool.submit(self._one, work, rank) for rank in range(len(self.communicators))]
            return [wait.result() for wait in waits]

    def _one(self, work: Callable[[int, Communicator], T], rank: int) -> T:
        torch.set_num_threads(1)
        try:
            return work(rank, self.communicators[rank])
        except BaseException:
            for communicator in self.communicators:
                communicator.abort()
            raise


class Texts:
    """Texts side by side in one cache, each with blocks of its own."""

    def __init__(self, model: LoadedModel, prompts: list[list[int]], most_decoding: int | None = None) -> None:
        blocks = 8
        size = CacheSize(BLOCK, blocks * len(prompts), blocks * BLOCK)
        self.runner = Runner(model, KVCache(model.shape, size, model.device), None, most_decoding)
        self._tables = np.arange(blocks * len(prompts), dtype=np.int32)
        self.texts = [list(prompt) for prompt in prompts]
        self._done = [0] * len(prompts)

    def step(self) -> tuple[list[int], torch.Tensor]:
        """A chunk of every text that has more; answers those that are now computed, and the logits after them."""
        moving = [i for i, text in enumerate(self.texts) if self._done[i] < len(text)]
        chunks = [self.texts[i][self._done[i] : self._done[i] + CHUNK] for i in moving]
        pasts = [self._done[i] for i in moving]
        for i, chunk in zip(moving, chunks, strict=True):
            self._done[i] += len(chunk)
        ready = [at for at, i in enumerate(moving) if self._done[i] == len(self.texts[i])]
        tables = Tables(self._tables, _ints(moving) * (len(self._tables) // len(self.texts)), BLOCK)
        batch = make_batch(
            _ints(token for chunk in chunks for token in chunk),
            _ints(map(len, chunks)),
            _ints(pasts),
            tables,
            np.cumsum([len(chunk) for chunk in chunks], dtype=np.int32)[ready] - 1,
        )
        return [moving[at] for at in ready], self.runner.run(batch)


def _ints(numbers: Iterable[int]) -> Ints:
    return np.fromiter(numbers, np.int32)
