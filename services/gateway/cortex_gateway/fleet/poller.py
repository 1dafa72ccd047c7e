"""Asking every neuron how it is, all at the same time, so that a slow one delays nobody.

Owns: the rhythm (interval, jitter, deadline, sooner when kicked), and telling beliefs and log how it went. Does not
own: a poll's steps (probe.py), what is believed (beliefs.py). Called by: gateway.py, forwarding (kick).

One clock looks at one heap of turns every 20 ms: with a timer for each neuron, every one of them would wake the loop
for itself, which costs more than the poll.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections.abc import Iterable

from cortex_gateway.fleet.beliefs import STRIKES, Beliefs, Report
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.probe import Probe
from cortex_gateway.fleet.snapshot import Reach
from cortex_serving import logs

POLL_TIMEOUT_S = 2.0
_JITTER = 0.2
_TICK_S = 0.02
_SPREAD_S = 0.001  # between the first polls of two neurons: connecting is the dear part


class Poller:
    """Watches the neurons of the last `watch` call."""

    def __init__(self, beliefs: Beliefs, client: NeuronClient, ours: Outstanding) -> None:
        self._beliefs, self._client, self._ours = beliefs, client, ours
        self._interval_s = 1.0
        self._probes: dict[str, Probe] = {}
        self._turns: list[tuple[float, int, Probe]] = []  # a heap by time; each probe that is watched is in it once
        self._serial = itertools.count()
        self._kicked: set[str] = set()
        self._clock: asyncio.Task[None] | None = None

    async def watch(self, neurons: Iterable[tuple[str, str]], interval_s: float) -> None:
        """Watch these (name, url) and no others; returns when each new one was asked once."""
        wanted = dict(neurons)
        for probe in [probe for probe in self._probes.values() if wanted.get(probe.name) != probe.url]:
            self._probes.pop(probe.name).close()
        self._interval_s = interval_s
        begin_at = asyncio.get_running_loop().time()
        new = [
            Probe(name, url, self._client, self._answered, self._missed)
            for name, url in wanted.items()
            if name not in self._probes
        ]
        for number, probe in enumerate(new):
            self._probes[probe.name] = probe
            self._give_turn(probe, begin_at + number * _SPREAD_S)
        self._clock = self._clock or asyncio.create_task(self._run())
        await asyncio.gather(*(probe.asked_once.wait() for probe in new))

    async def stop(self) -> None:
        """Watch nothing."""
        for probe in self._probes.values():
            probe.close()
        self._probes = {}
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
            self._clock = None

    def kick(self, name: str) -> None:
        """Ask this neuron now: there is a reason to doubt what we believe."""
        self._kicked.add(name)

    # ---- turns

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tick(loop.time())
            except Exception as failure:  # noqa: BLE001  without polls the gateway would believe for ever what it believes
                logs.error("poll_failed", exception=failure)
            await asyncio.sleep(_TICK_S)

    def _tick(self, now: float) -> None:
        while self._turns and self._turns[0][0] <= now:
            probe = heapq.heappop(self._turns)[2]
            if self._probes.get(probe.name) is probe:
                self._take_turn(probe, now)
        kicked, self._kicked = self._kicked, set()
        for probe in (self._probes[name] for name in kicked if name in self._probes):
            if probe.asked_at < now:
                self._kicked.add(probe.name)  # what was asked before the doubt does not end it
            elif probe.asked_at > now:
                self._ask(probe, now)

    def _take_turn(self, probe: Probe, now: float) -> None:
        if now >= probe.asked_at + POLL_TIMEOUT_S:
            probe.give_up(f"no answer in {POLL_TIMEOUT_S:g} s")
        if probe.asked_at == math.inf and now >= probe.next_at:
            probe.next_at = now + self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  spreads load
            self._ask(probe, now)
        if probe.asked_at < now:  # it has been waiting since an earlier turn
            self._give_turn(probe, min(now + self._interval_s, probe.asked_at + POLL_TIMEOUT_S))
        else:
            self._give_turn(probe, min(probe.next_at, now + POLL_TIMEOUT_S))

    def _ask(self, probe: Probe, now: float) -> None:
        self._ours.asked(probe.name)
        probe.ask(now)

    def _give_turn(self, probe: Probe, at: float) -> None:
        heapq.heappush(self._turns, (at, next(self._serial), probe))

    # ---- how it went

    def _answered(self, probe: Probe, report: Report) -> None:
        self._beliefs.answered(probe.name, report, self._ours.in_report(probe.name))
        if probe.reach is not Reach.UP:
            probe.reach = Reach.UP
            logs.info("neuron_up", neuron=probe.name, url=probe.url, state=report.health.state)

    def _missed(self, probe: Probe, reason: str) -> None:
        strikes = self._beliefs.strike(probe.name)
        if strikes >= STRIKES and probe.reach is not Reach.DOWN:
            probe.reach = Reach.DOWN
            logs.warning("neuron_down", neuron=probe.name, url=probe.url, reason=reason)
