"""A model that is loaded into an engine group of our own: the group, and what the daemon needs to speak to it in text.

Made by: loading.py. Called by: residency (as a Serving), inference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from cortex_contracts.inventory.fleet import SamplingName, Task
from cortex_contracts.wire.errors import CortexError
from cortex_neuron.group.death import Death
from cortex_neuron.group.group import Group, GroupFigures
from cortex_neuron.protocol.frames import Loaded
from cortex_neuron.residency.harness import Size
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
        return Size(self.loaded.vram_mb, self.loaded.context, self.loaded.kv_blocks)

    @property
    def figures(self) -> GroupFigures:
        """As of the last step."""
        return self.group.figures

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
