"""A vLLM server's processes, seen from outside: started, listened to, ended.

Owns: the process group and its log. Does not own: what it serves (server.py). Called by: harness.py, server.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from cortex_neuron.group.death import words_of_exit
from cortex_neuron.vllm.log_lines import Allowance, Lines, cause
from cortex_serving import logs

_KEEPER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))]
_LINES_KEPT = 400  # for the cause of an end
_LAST_WORDS_S = 0.1  # for what a process that has ended left in its pipe
_UNKILLABLE_S = 30.0  # after SIGKILL; a driver may hold a process for a while


class ServerUnkillable(Exception):
    """A process outlives SIGKILL: its memory does not come back while this daemon waits for it."""


class ServerProcess:
    """A running server. `exited` is done, with the exit code, as soon as it has ended; who it started may still end."""

    def __init__(
        self, process: asyncio.subprocess.Process, report: int, model_id: str, on_line: Callable[[str], None]
    ) -> None:
        self.pid = process.pid  # the keeper's, which is also the group's
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._process, self._report = process, report
        self._model_id, self._on_line = model_id, on_line
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._reading = asyncio.create_task(self._read())
        self._reaping = asyncio.create_task(self._reap())
        self._loop.add_reader(report, self._reported)

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], model_id: str, on_line: Callable[[str], None]
    ) -> ServerProcess:
        """Start it in a session of its own. Raises OSError."""
        report, its_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_KEEPER,
                str(its_end),
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=(its_end,),
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(its_end)
        return cls(process, report, model_id, on_line)

    def family(self) -> list[psutil.Process]:
        """Every process of it, less the keeper."""
        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def up(self) -> None:
        """It serves: what it has said so far is no cause of what comes."""
        self._lines.clear()
        self._on_line = lambda _: None

    def words_of_end(self) -> str:
        """How it ended and, as far as it said so, why."""
        code = self.exited.result()
        said = cause(self._lines) or (self._lines[-1] if code > 0 and self._lines else "")
        return f"vllm {words_of_exit(code)}" + (f": {said}" if said else "")

    async def end(self, grace_s: float) -> int:
        """SIGTERM, and SIGKILL to what is left after `grace_s`, also to who has left the group. The exit code.

        Raises ServerUnkillable.
        """
        family = await asyncio.to_thread(self.family)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await asyncio.shield(self._reaping)
                    break
        await asyncio.to_thread(_await_end, family)
        code = await self.exited
        await self._reaping
        return code

    def _signal(self, number: signal.Signals) -> None:
        if not self._reaping.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _reported(self) -> None:
        """The keeper says how the server ended; says nothing where it was killed itself, and with it the server."""
        self._loop.remove_reader(self._report)
        said = os.read(self._report, 16)
        os.close(self._report)
        code = int(said) if said else -signal.SIGKILL
        self._loop.call_later(_LAST_WORDS_S, self.exited.set_result, code)

    async def _reap(self) -> None:
        await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await asyncio.wait({self._reading}, timeout=_LAST_WORDS_S)
        self._reading.cancel()
        await self.exited

    async def _read(self) -> None:
        """Its log into ours; read whatever comes, or it would stand still."""
        assert self._process.stdout is not None
        lines, allowance, now = Lines(), Allowance(), asyncio.get_running_loop().time
        while data := await self._process.stdout.read(65536):
            for line in lines.feed(data):
                self._lines.append(line)
                self._on_line(line)
                if allowance.takes(now()):
                    logs.info("vllm_log", model=self._model_id, line=line)
        if allowance.num_left_out:
            logs.info("vllm_log_cut", model=self._model_id, lines=allowance.num_left_out)


def _await_end(family: Sequence[psutil.Process]) -> None:
    """Kill what still runs, and wait until nothing does."""
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    _, alive = psutil.wait_procs(family, _UNKILLABLE_S)
    if alive:
        raise ServerUnkillable(f"vllm's processes {[each.pid for each in alive]} outlive SIGKILL")
