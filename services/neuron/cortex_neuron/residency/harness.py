"""What residency needs of whatever runs a model, and of a model that is loaded.

Owns: the two protocols, and what goes to and fro. Does not own: how it is done: loading.py (torch, an engine group of
our own), cortex_neuron.vllm (a vLLM server). Called by: residency, api.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cortex_contracts.inventory.fleet import Model, SamplingName, Task
from cortex_contracts.wire.errors import CortexError
from cortex_contracts.wire.neuron import DeviceSpec, Failure, Progress
from cortex_neuron.group.death import Death


class LoadFailed(Exception):
    """A load ended; `failure` says why in the words of docs/protocol.md."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Order:
    """What exactly is to be loaded: the catalogue's entry with what the request for it changed."""

    model: Model
    devices: tuple[int, ...]  # those it is on
    rank_devices: tuple[str, ...]  # by rank: "cpu" | "cuda:0"
    specs: tuple[DeviceSpec, ...] = ()  # of those it is on


@dataclass(frozen=True, slots=True)
class Size:
    """What a loaded model takes and has, for as long as it is loaded."""

    vram_mb: int
    context: int
    kv_blocks: int
    weights_mb: int = 0  # of these: what goes to host memory when it sleeps


class Figures(Protocol):
    """What it was doing when that was last heard, in sequences, blocks, steps, and tokens of drafts."""

    running: int
    waiting: int
    kv_blocks_free: int
    steps: int
    drafted: int
    accepted: int


class SleepFailed(Exception):
    """It has not fallen asleep, and is to be ended; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Sleeps(Protocol):
    """What can give its devices back, and have them again, without its processes' end."""

    async def sleep(self, timeout_s: float) -> int:
        """Fall asleep; the MB of host memory that takes. Raises SleepFailed."""

    async def wake(self, timeout_s: float, on_progress: Callable[[Progress], None]) -> Serving:
        """Serve again. Raises LoadFailed; what has failed is the caller's to end."""


class Serving(Protocol):
    """A loaded model. `died` is done when it ended without being asked to."""

    @property
    def devices(self) -> tuple[int, ...]: ...
    @property
    def task(self) -> Task | None:
        """What it is for, where that is known."""

    @property
    def died(self) -> asyncio.Future[Death]: ...
    @property
    def pids(self) -> list[int]: ...
    @property
    def size(self) -> Size: ...
    @property
    def sleeps(self) -> Sleeps | None:
        """How it sleeps; None where it cannot."""

    @property
    def figures(self) -> Figures: ...

    def prefer(self, sampling: Mapping[SamplingName, float]) -> None:
        """Choose tokens so, where a request does not say, from now on; above what the model's files say."""

    def fail_waiting(self, failure: CortexError) -> int:
        """Fail the requests that have not begun; how many."""

    def fail_all(self, failure: CortexError) -> None:
        """Fail every request in flight."""

    async def end(self, grace_s: float) -> None:
        """End its processes, and leave nothing of them."""


class Harness(Protocol):
    """Loads models, in the order of these steps."""

    @property
    def present(self) -> bool:
        """Whether this host has what it takes."""

    async def check(self, model: Model) -> Path | None:
        """The model's files if they are here, found fit. None: they must be fetched first. Raises LoadFailed."""

    async def bring_up(self, order: Order, path: Path, on_progress: Callable[[Progress], None]) -> Serving:
        """Start what serves it, until it does. Raises LoadFailed; nothing is then left behind."""
