"""Starting a rank, and the caller who goes away meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from cortex_neuron.group import rank_process


@pytest.mark.parametrize("ticks", range(6))
async def test_a_cancelled_start_is_cancelled_at_any_moment(ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the process has come up in the very same moment: an unload must not wait for the load it ended."""
    starting, started = asyncio.Event(), asyncio.Event()

    async def start(*_: object) -> None:
        starting.set()
        await started.wait()

    monkeypatch.setattr(rank_process.asyncio, "to_thread", start)
    spawning = asyncio.create_task(rank_process.spawn("nothing", "ipc://nowhere", 0, 1, 5.0))
    await starting.wait()
    started.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    if spawning.done():
        assert isinstance(spawning.exception(), AssertionError)  # it got as far as the process, which is none
        return
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
