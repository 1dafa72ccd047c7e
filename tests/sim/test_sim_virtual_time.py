"""The clock that every simulation runs on."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.sim.virtual_time import Standstill, VirtualLoop

from cortex_gateway.forwarding.response import Response, Silent


def test_hours_pass_at_once_and_in_order() -> None:
    """Whoever sleeps longer wakes later, and both clocks that the services read say so."""
    loop = VirtualLoop()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        woken.append((name, time.monotonic() - began))

    async def both() -> None:
        await asyncio.gather(sleep("long", 7200), sleep("short", 1))

    began = time.perf_counter()
    loop.run(both())
    loop.end()
    assert [(name, round(seconds, 6)) for name, seconds in woken] == [("short", 1), ("long", 7200)]
    assert time.perf_counter() - began < 5


class _Mute:
    """Where no answer ever comes from."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


def test_a_silent_neuron_is_given_up_whatever_the_moment() -> None:
    """Times are rounded: 20 s after this one the difference is less than 20, and there is nothing left to wait for."""
    loop, moment_s = VirtualLoop(), 53.338
    assert (moment_s + 20) - moment_s < 20

    async def wait() -> None:
        await asyncio.sleep(moment_s)
        with pytest.raises(Silent):
            await Response(_Mute(), 20.0).head()

    loop.run(wait())
    assert loop.time() == moment_s + 20
    loop.end()


def test_a_wait_that_nothing_can_end_is_noticed() -> None:
    """A hang fails at once instead of after the test's time."""
    loop = VirtualLoop()
    with pytest.raises(Standstill):
        loop.run(asyncio.Event().wait())
    loop.end()
