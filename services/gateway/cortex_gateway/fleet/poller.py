"""Asking every neuron how it is, each in a task of its own, so that a slow one delays nobody.

Owns: the rhythm (interval, jitter, deadline, sooner when kicked). Does not own: what is believed (beliefs.py).
Called by: gateway.py, forwarding (kick).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping

from cortex_contracts.wire.neuron import Discovery
from cortex_gateway.fleet.beliefs import STRIKES, Beliefs, Report
from cortex_gateway.fleet.client import NeuronClient, NeuronRefused, NeuronUnreachable
from cortex_serving import logs

POLL_TIMEOUT_S = 2.0
_JITTER = 0.2


class _Watch:
    """One neuron under watch."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sooner = asyncio.Event()
        self.asked_once = asyncio.Event()
        self.discovery: Discovery | None = None
        self.task: asyncio.Task[None] | None = None


class Poller:
    """Watches the neurons of the last `watch` call."""

    def __init__(
        self, beliefs: Beliefs, client: NeuronClient, ours: Callable[[], Mapping[tuple[str, str], int]]
    ) -> None:
        self._beliefs, self._client, self._ours = beliefs, client, ours
        self._watches: dict[str, _Watch] = {}

    async def watch(self, neurons: Iterable[tuple[str, str]], interval_s: float) -> None:
        """Watch these (name, url) and no others; returns when each new one was asked once."""
        await self.stop()
        self._watches = {name: _Watch(url) for name, url in neurons}
        for name, watch in self._watches.items():
            watch.task = asyncio.create_task(self._run(name, watch, interval_s))
        await asyncio.gather(*(watch.asked_once.wait() for watch in self._watches.values()))

    async def stop(self) -> None:
        """Watch nothing."""
        tasks = [watch.task for watch in self._watches.values() if watch.task is not None]
        self._watches = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kick(self, name: str) -> None:
        """Ask this neuron now: there is a reason to doubt what we believe."""
        if (watch := self._watches.get(name)) is not None:
            watch.sooner.set()

    async def _run(self, name: str, watch: _Watch, interval_s: float) -> None:
        while True:
            watch.sooner.clear()
            await self._ask(name, watch)
            watch.asked_once.set()
            pause_s = interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  spreads load, guards nothing
            try:
                async with asyncio.timeout(pause_s):
                    await watch.sooner.wait()
            except TimeoutError:
                continue

    async def _ask(self, name: str, watch: _Watch) -> None:
        was_down = not self._beliefs.snapshot().neurons[name].healthy
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                report = await self._report(watch)
        except (NeuronUnreachable, NeuronRefused, TimeoutError) as failure:
            watch.discovery = None  # it may come back with another driver, or another version
            if self._beliefs.strike(name) == STRIKES:
                logs.warning("neuron_down", neuron=name, url=watch.url, reason=str(failure) or "no answer in time")
            return
        self._beliefs.answered(name, report, self._ours())
        if was_down:
            logs.info("neuron_up", neuron=name, url=watch.url, state=report.health.state)

    async def _report(self, watch: _Watch) -> Report:
        report = await self._client.report(watch.url)
        if watch.discovery is None or watch.discovery.version != report.health.version:
            watch.discovery = await self._client.discovery(watch.url)
        return Report(discovery=watch.discovery, health=report.health, models=tuple(report.models))
