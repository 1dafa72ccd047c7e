"""An event loop whose clock jumps to the next timer when nothing is ready, so that hours pass in seconds.

Owns: time, for everything that runs on the loop: `loop.time()`, and `time.monotonic` and `time.time` while it runs.
Does not own: I/O: no socket is ever looked at, connections are opened by who sets `connect`, and what is meant for a
thread is run in place. Called by: simulation.py.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar
from unittest import mock

_BEGINNING = 1_700_000_000.0  # seconds since 1970, when every simulation begins
_Result = TypeVar("_Result")


class Connect(Protocol):
    """What opens a connection in place of the operating system."""

    async def __call__(self, protocol: asyncio.Protocol, host: str, port: int) -> asyncio.Transport: ...


class Standstill(Exception):
    """Nothing is ready and no timer is set: whoever waits would wait for ever."""


class _Clock(selectors.SelectSelector):
    """A selector that sees no socket; waiting moves its time on."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill("nothing is ready, and no timer is set")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that never sleeps."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self.connect: Connect | None = None
        super().__init__(self._clock)

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._clock.now_s

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """A connection of the simulated network. Raises OSError."""
        assert self.connect is not None, "somebody has made a network"
        protocol = protocol_factory()
        transport = await self.connect(protocol, host, port)
        protocol.connection_made(transport)
        return transport, protocol

    def _date(self) -> float:
        return _BEGINNING + self.time()

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _Result], *args: Any
    ) -> asyncio.Future[_Result]:
        """Run it here and now: a thread would have a time of its own."""
        done: asyncio.Future[_Result] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as failure:
            done.set_exception(failure)
        return done

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run the loop until `work` is done."""
        with mock.patch("time.monotonic", self.time), mock.patch("time.time", self._date):
            return self.run_until_complete(work)

    def end(self) -> None:
        """Cancel what is left, and close."""
        self.run(_cancel_all())
        self.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
