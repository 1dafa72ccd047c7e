"""A model that is loaded into an engine group of our own: the group, and what the daemon needs to speak to it in text.

Made by: loading.py. Called by: residency (as a Serving), inference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from cortex_contracts.inventory.fleet import SamplingName, Task
from cortex_contracts.wire.errors import CortexError
from cortex_contracts.wire.neuron import Failure, Progress
from cortex_neuron.group.death import Death, GroupFailed
from cortex_neuron.group.group import Group, GroupFigures
from cortex_neuron.protocol.frames import Loaded, LoadProgress
from cortex_neuron.residency.harness import LoadFailed, Size, SleepFailed
from cortex_neuron.residency.purpose import Purpose
from cortex_neuron.text.text_model import TextModel


@dataclass(frozen=True, slots=True)
class GroupServing:
    """What a loaded model is made of."""

    group: Group
    loaded: Loaded
    text: TextModel
    devices: tuple[int, ...]
    purpose: Purpose = field(default_factory=Purpose)

    @property
    def task(self) -> Task:
        """What it is for."""
        return self.purpose.task

    @property
    def died(self) -> asyncio.Future[Death]:
        """Done when the group ended without being asked to."""
        return self.group.died

    @property
    def pids(self) -> list[int]:
        """The ranks' processes."""
        return self.group.pids

    @property
    def size(self) -> Size:
        """As rank 0 said when it had loaded."""
        loaded = self.loaded
        return Size(loaded.vram_mb, loaded.context, loaded.kv_blocks, loaded.weights_mb)

    @property
    def figures(self) -> GroupFigures:
        """As of the last step."""
        return self.group.figures

    @property
    def sleeps(self) -> GroupServing:
        """By frames to its ranks."""
        return self

    async def sleep(self, timeout_s: float) -> int:
        """Sleeps.sleep"""
        try:
            return (await self.group.sleep(timeout_s)).host_mb
        except GroupFailed as failure:
            raise SleepFailed(failure_of(failure.death)) from failure

    async def wake(self, timeout_s: float, on_progress: Callable[[Progress], None]) -> GroupServing:
        """Sleeps.wake: the language that it speaks was kept, too."""
        try:
            loaded = await self.group.wake(timeout_s, lambda each: on_progress(progress_of(each)))
        except GroupFailed as failure:
            raise LoadFailed(failure_of(failure.death)) from failure
        return replace(self, loaded=loaded)

    def prefer(self, sampling: Mapping[SamplingName, float]) -> None:
        """TextModel.prefer"""
        self.text.prefer(sampling)

    def fail_waiting(self, failure: CortexError) -> int:
        """Group.fail_waiting"""
        return self.group.fail_waiting(failure)

    def fail_all(self, failure: CortexError) -> None:
        """Group.fail_all"""
        self.group.fail_all(failure)

    async def end(self, grace_s: float) -> None:
        """Group.end"""
        await self.group.end(grace_s)


def progress_of(frame: LoadProgress) -> Progress:
    """How far a load is, as rank 0 says."""
    return Progress(phase=frame.phase, fraction=frame.fraction)


def failure_of(death: Death) -> Failure:
    """Why a group is no more."""
    return Failure(kind=death.kind, message=death.message, rank=death.rank)
