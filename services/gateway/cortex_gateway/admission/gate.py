"""Whether a request may begin, and the list of those that have.

Owns: the gate and the end of requests at shutdown (case L8). Does not own: limits per client (meter.py).
Called by: api (every request), operations.py (draining), gateway.py (closing, a neuron's death).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from enum import StrEnum

from cortex_contracts.wire.errors import CortexError, Draining, ShuttingDown, UpstreamTimeout
from cortex_gateway.exchange import Exchange, Stage
from cortex_gateway.processes.workers import Worker

_LAST_WORDS_S = 1.0


class Gate(StrEnum):
    """Whether requests are let in. Transitions: NEXT."""

    OPEN = "open"
    DRAINING = "draining"  # by an operator, until one says otherwise
    CLOSED = "closed"  # the process ends


NEXT = {
    Gate.OPEN: {Gate.DRAINING, Gate.CLOSED},
    Gate.DRAINING: {Gate.OPEN, Gate.CLOSED},
    Gate.CLOSED: set[Gate](),
}


class Admission:
    """The requests that are under way."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._closed = False
        self._inside: set[Exchange] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def gate(self) -> Gate:
        """As it is now. All workers of a gateway are drained together."""
        if self._closed:
            return Gate.CLOSED
        return Gate.DRAINING if self._worker.all.draining else Gate.OPEN

    @property
    def inside(self) -> Collection[Exchange]:
        """Requests under way; to be looked at, not kept."""
        return self._inside

    @property
    def in_flight(self) -> int:
        """Requests under way, in all workers."""
        return self._worker.all.in_flight

    def enter(self, exchange: Exchange) -> None:
        """Let a request begin. Raises ShuttingDown, Draining."""
        if (gate := self.gate) is not Gate.OPEN:
            raise _shutting_down() if gate is Gate.CLOSED else _draining()
        self._inside.add(exchange)
        self._worker.in_flight = len(self._inside)
        self._empty.clear()

    def leave(self, exchange: Exchange) -> None:
        """A request is over, or was never let in."""
        self._inside.discard(exchange)
        self._worker.in_flight = len(self._inside)
        if not self._inside:
            self._empty.set()

    def neuron_down(self, neuron: str) -> None:
        """Wake who waits for the first word of a neuron that has been given up; streams that flow are left alone."""
        reason = UpstreamTimeout(f"neuron {neuron} stopped answering")
        self._interrupt(reason, lambda exchange: exchange.neuron == neuron and exchange.stage is Stage.ASKED)

    def drain(self) -> None:
        """Let nobody in until `undrain`; who is in stays. Raises ShuttingDown."""
        self._move(Gate.DRAINING)

    def undrain(self) -> None:
        """Let requests in again. Raises ShuttingDown."""
        self._move(Gate.OPEN)

    def _move(self, gate: Gate) -> None:
        if gate is not self.gate and gate not in NEXT[self.gate]:
            raise _shutting_down()
        self._worker.all.draining = gate is Gate.DRAINING

    async def close(self, drain_timeout_s: float) -> None:
        """Let nobody in, wake who waits for a model, give the rest `drain_timeout_s`, then end them aloud."""
        self._closed = True
        self._interrupt(_shutting_down(), lambda exchange: exchange.stage is Stage.WAITING)
        if not await self._emptied(drain_timeout_s):
            self._interrupt(_shutting_down(), lambda exchange: True)
            await self._emptied(_LAST_WORDS_S)

    async def _emptied(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _interrupt(self, reason: CortexError, concerns: Callable[[Exchange], bool]) -> None:
        for exchange in [each for each in self._inside if concerns(each)]:
            exchange.interrupt(reason)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("this gateway is shutting down; another attempt will meet another or the next one")


def _draining() -> Draining:
    return Draining("this gateway is drained by an operator; another gateway of the fleet answers")
