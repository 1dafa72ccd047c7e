"""The services as child processes: started with their log, watched, and ended in bounded time.

Owns: process groups, logs, the order of the end. Does not own: what is ready (readiness.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque

from cortex_status.progress import Progress
from cortex_status.up import orphans
from cortex_status.up.failures import UpFailed
from cortex_status.up.services import Service

SHOWN_LOG_LINES = 20
KILL_TIMEOUT_S = 5.0


class Children:
    """Running services, in the order of their start."""

    def __init__(self) -> None:
        self._running: list[tuple[Service, asyncio.subprocess.Process]] = []

    async def start(self, service: Service) -> None:
        """Start a service in a process group of its own. Raises UpFailed when its program cannot be run."""
        service.log.parent.mkdir(parents=True, exist_ok=True)
        with service.log.open("wb") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *service.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for us to pass on, in order
                )
            except OSError as error:
                raise UpFailed(f"{service.title} cannot be started: {error}") from error
        self._running.append((service, process))

    async def death(self) -> None:
        """Wait until any service ends, which none should. Raises UpFailed with its last words."""
        waits = {asyncio.create_task(process.wait()): service for service, process in self._running}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        first = done.pop()
        raise UpFailed(_obituary(waits[first], first.result()))

    async def stop(self, progress: Progress) -> None:
        """End all, the last started first: SIGTERM, a bounded wait, SIGKILL; then what they left behind."""
        while self._running:
            service, process = self._running[-1]
            if process.returncode is None:
                progress.stage(f"stopping {service.program}")
                await _end(service, process)
            self._running.pop()
            await orphans.end(known={other.pid for _, other in self._running})

    def kill(self) -> None:
        """Do not wait any longer for anything; `stop` then finds them dead."""
        for _, process in self._running:
            _signal(process, signal.SIGKILL)


async def _end(service: Service, process: asyncio.subprocess.Process) -> None:
    for number, patience_s in ((signal.SIGTERM, service.stop_timeout_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        _signal(process, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience_s)
            return


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the daemon alone when asked to end, for it has an order to keep; to its whole group when killed."""
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGTERM:
            os.kill(process.pid, number)
        else:
            os.killpg(process.pid, number)


def _obituary(service: Service, returncode: int) -> str:
    how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    with service.log.open(errors="replace") as log:
        last = "".join(deque(log, maxlen=SHOWN_LOG_LINES)).rstrip()
    return f"{last}\n\n{service.title} ended by itself, {how}; the end of {service.log} is above"
