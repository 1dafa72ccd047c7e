"""One process of an engine group: started by the fork server, watched, ended from outside.

Owns: the process and its exit code. Does not own: what it is told. Called by: group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from multiprocessing.context import ForkServerProcess

from cortex_neuron.group import fork_server
from cortex_neuron.group.death import Death, GroupFailed
from cortex_neuron.group.entry import run_rank

_UNKILLABLE_S = 30.0  # after SIGKILL; a driver may hold a process for a while


class RankUnkillable(Exception):
    """A process outlives SIGKILL: its memory does not come back while this daemon waits for it."""


class RankProcess:
    """A running rank. `exited` is done, with the exit code, as soon as the process has ended."""

    def __init__(self, process: ForkServerProcess, rank: int) -> None:
        assert process.pid is not None
        self.rank = rank
        self.pid = process.pid
        self._process = process
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(process.sentinel, self._on_sentinel)
        self._reaping: asyncio.Task[None] | None = None

    def _on_sentinel(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._reaping = self._loop.create_task(self._reap())

    async def _reap(self) -> None:
        code = await asyncio.to_thread(fork_server.exit_code, self._process)
        # A fork server that was killed takes the news of its children along, but not always the children.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.exited.set_result(code)

    async def end(self, grace_s: float) -> int:
        """Wait `grace_s` for it to end by itself, then SIGTERM, then SIGKILL. The exit code. Raises RankUnkillable."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    return await asyncio.shield(self.exited)
        try:
            async with asyncio.timeout(_UNKILLABLE_S):  # one in uninterruptible sleep ends when the kernel lets it
                return await asyncio.shield(self.exited)
        except TimeoutError as failure:
            raise RankUnkillable(f"rank {self.rank}, process {self.pid}, outlives SIGKILL") from failure

    def _signal(self, number: signal.Signals) -> None:
        if not self.exited.done():
            _signal_group(self.pid, number)


async def spawn(module: str, address: str, rank: int, world_size: int, timeout_s: float) -> RankProcess:
    """Start a rank. Raises GroupFailed when that takes longer than `timeout_s`."""
    arguments = (module, address, rank, world_size)
    process = fork_server.process(run_rank, arguments, f"rank-{rank}")
    starting = asyncio.ensure_future(asyncio.to_thread(fork_server.start, process))
    try:
        async with asyncio.timeout(timeout_s):  # Python 3.11's wait_for loses a cancel that comes with the result
            await asyncio.shield(starting)
    except (OSError, EOFError, TimeoutError) as failure:
        starting.add_done_callback(lambda _: _kill(process))
        cause = f"not within {timeout_s:g} s" if isinstance(failure, TimeoutError) else str(failure)
        raise GroupFailed(Death("spawn_failed", f"rank {rank} could not be started: {cause}", rank)) from failure
    except asyncio.CancelledError:
        starting.add_done_callback(lambda _: _kill(process))
        raise
    return RankProcess(process, rank)


def _kill(process: ForkServerProcess) -> None:
    if process.pid is not None:
        _signal_group(process.pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the rank's process group; until the rank has made its own, only the process."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)
