"""A gateway that has a successor take its place while both serve, on SIGUSR2.

Owns: that there is one at a time, what is said of it in the log, and when the service manager is told. Does not own:
what the gateway does when it has been replaced (it retires: cortex_serving.server). Called by: start.py for a gateway
of one process, supervisor.py for several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cortex_gateway.processes.successor import CannotStart, Standing, Successor
from cortex_serving import logs, service_manager

LOOK_S = 0.05


class Handover:
    """`sockets` are descriptors by address; `draining` is whether an operator has drained this gateway."""

    def __init__(self, sockets: Callable[[], dict[str, list[int]]], draining: Callable[[], bool]) -> None:
        self._sockets, self._draining = sockets, draining
        self._successor: Successor | None = None

    @property
    def under_way(self) -> bool:
        """Whether a successor starts."""
        return self._successor is not None and self._successor.standing is Standing.STARTING

    def begin(self) -> None:
        """Start a successor. Says so in the log, or why not."""
        if self._successor is not None:
            logs.warning("handover_refused", reason=f"a successor is {self._successor.standing}")
            return
        try:
            self._successor = Successor(self._sockets(), self._draining())
        except CannotStart as failure:
            logs.error("handover_failed", reason=str(failure))
        else:
            logs.info("handover_began", pid=self._successor.pid)

    def done(self) -> bool:
        """Whether the successor has come to serve, now that one looks. Says in the log that it failed."""
        successor = self._successor
        if successor is None:
            return False
        standing = successor.look()
        if standing is Standing.FAILED:
            logs.error("handover_failed", pid=successor.pid, reason=successor.reason)
            self._successor = None
        return standing is Standing.SERVING

    def leave(self) -> None:
        """Say that the successor is the service now; returns when this process may end."""
        assert self._successor is not None, "done"
        service_manager.main_pid(self._successor.pid)
        logs.info("handed_over", pid=self._successor.pid)

    def give_up(self) -> None:
        """This gateway is to stop, and so is who would have taken its place."""
        if self._successor is not None:
            self._successor.end("this gateway was stopped meanwhile")

    async def finished(self) -> bool:
        """Begin, unless one is under way, and wait; whether this gateway has been replaced."""
        if self._successor is not None:
            self.begin()  # which refuses
            return False
        self.begin()
        while self._successor is not None:
            if self.done():
                await asyncio.to_thread(self.leave)  # the service manager may take its time
                return True
            await asyncio.sleep(LOOK_S)
        return False
