"""The harness `vllm`: the steps of a load into a vLLM server of its own.

Owns: their order, their deadline, and the names of their failures. Does not own: which model is fit: vLLM says. Called
by: residency.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import Failure, Progress
from cortex_neuron.group.death import Death
from cortex_neuron.residency import sources
from cortex_neuron.residency.harness import LoadFailed, Order
from cortex_neuron.residency.sources import SourceMissing
from cortex_neuron.vllm import command
from cortex_neuron.vllm.log_lines import progress_of
from cortex_neuron.vllm.process import ServerProcess
from cortex_neuron.vllm.server import Ended, Server
from cortex_serving import logs


@dataclass(slots=True)
class VllmHarness:
    """Starts a server for each model. Each has a number, never given twice in a daemon's life."""

    settings: NeuronSection
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def present(self) -> bool:
        """Whether the program is there."""
        return bool(self.settings.vllm_bin) and os.access(self.settings.vllm_bin, os.X_OK)

    async def check(self, model: Model) -> Path | None:
        """Harness.check"""
        if model.ray_hosts > 1 and not self.settings.vllm_ray_address:
            words = f"ray_hosts is {model.ray_hosts}, and this neuron has no neuron_vllm_ray_address"
            raise LoadFailed(Failure(kind="load_failed", message=words))
        try:
            return await asyncio.to_thread(sources.find, model.source)
        except SourceMissing as failure:
            raise LoadFailed(Failure(kind="source_invalid", message=str(failure))) from failure

    async def bring_up(self, order: Order, path: Path, on_progress: Callable[[Progress], None]) -> Server:
        """Start a server and wait until it serves. Raises LoadFailed; nothing is then left behind."""
        try:
            return await self._bring_up(order, path, on_progress)
        except Ended as ended:
            raise LoadFailed(_failure(ended.death)) from ended
        except OSError as failure:
            raise LoadFailed(Failure(kind="spawn_failed", message=f"vllm could not be started: {failure}")) from failure
        except Exception as failure:  # whatever it is, the model has failed and its state must say so
            logs.error("load_broke", exception=failure, model=order.model.id)
            raise LoadFailed(Failure(kind="load_failed", message=str(failure))) from failure

    async def _bring_up(self, order: Order, path: Path, on_progress: Callable[[Progress], None]) -> Server:
        settings = self.settings
        socket = Path(settings.runtime_dir, f"v{next(self._numbers)}.sock")
        furthest = Progress(phase="starting", fraction=0.0)
        on_progress(furthest)

        def on_line(line: str) -> None:
            nonlocal furthest
            progress = progress_of(line)
            if progress is not None and progress.fraction > furthest.fraction:
                furthest = progress
                on_progress(progress)

        process = await ServerProcess.start(
            command.arguments(order, path, socket, settings),
            command.environment(order, settings, os.environ),
            order.model.id,
            on_line,
        )
        server = Server(process, socket, order.devices, settings.step_timeout_s)
        try:
            await self._until_ready(server, order.model.host_mb)
        except BaseException:
            await server.end(grace_s=0.0)
            raise
        return server

    async def _until_ready(self, server: Server, vram_mb: int) -> None:
        limit_s = self.settings.load_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await server.until_ready(vram_mb)
        except TimeoutError as failure:
            raise Ended(Death("load_timeout", f"vllm did not serve within {limit_s:g} s", None)) from failure


def _failure(death: Death) -> Failure:
    return Failure(kind=death.kind, message=death.message, rank=death.rank)
