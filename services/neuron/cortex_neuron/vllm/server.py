"""A vLLM server that is up: asked how it is, watched, and ended; a Serving of residency.

Owns: its health, its figures, and which requests are on their way through it. Does not own: its processes (process.py)
or one request (passage.py). Supervision needs no help of the server: one that is silent is killed from outside.
Made by: harness.py. Called by: residency, api.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from cortex_contracts.inventory.fleet import SamplingName, Task
from cortex_contracts.wire.errors import CortexError, GroupDied
from cortex_neuron.group.death import Death
from cortex_neuron.residency.harness import Size
from cortex_neuron.vllm import exposition
from cortex_neuron.vllm.exposition import Told
from cortex_neuron.vllm.passage import Passage
from cortex_neuron.vllm.process import ServerProcess, ServerUnkillable
from cortex_serving import logs

BASE = "http://vllm"  # a name for the Host header: the socket is a file
_TICK_S = 1.0
_ASK_S = 5.0  # a small answer's time; one engine step may hold the server's loop up
_READY_POLL_S = 0.25
_TERM_S = 10.0  # it ends its engines and gives shared memory back
_DEAD_TERM_S = 5.0  # longer than the keeper takes to end what a dead server leaves


@dataclass(slots=True)
class ServerFigures:
    """As /metrics last said."""

    running: int = 0
    waiting: int = 0
    kv_blocks_free: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0


class Server:
    """One loaded model's server. `died` is done when it ended, or was given up, without being asked to end."""

    task: Task | None = None  # its arguments may say anything

    def __init__(self, process: ServerProcess, socket: Path, devices: tuple[int, ...], silence_s: float) -> None:
        self.died: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.figures = ServerFigures()
        self.size = Size(0, 0, 0)
        self.pids: list[int] = []
        self.devices = devices
        self._process, self._socket = process, socket
        self._silence_s = silence_s
        self._small = aiohttp.ClientTimeout(total=min(_ASK_S, silence_s))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._passages: set[Passage] = set()
        self._watching: asyncio.Task[None] | None = None
        self._ending = False
        process.exited.add_done_callback(self._exited)

    @property
    def sleeps(self) -> None:
        """It does not: its own sleep mode belongs to a server for development."""

    # ---- the start

    async def until_ready(self, vram_mb: int) -> None:
        """Wait until it serves, then watch it. Raises what `died` says as Ended; the caller has the deadline."""
        while not await self._is_well():
            if self.died.done():
                raise Ended(self.died.result())
            await asyncio.sleep(_READY_POLL_S)
        models = await self._get_json("/v1/models")
        told = await self._told()
        self.size = Size(vram_mb, int(models["data"][0]["max_model_len"]), told.kv_blocks)
        self.pids = [each.pid for each in await asyncio.to_thread(self._process.family)]
        self._take(told)
        self._process.up()
        self._watching = asyncio.create_task(self._watch())

    # ---- requests

    @contextmanager
    def passage(self) -> Iterator[Passage]:
        """One request's way through. Raises GroupDied."""
        if self.died.done():
            raise self._death_error()
        passage = Passage(self._session, BASE, self._cause_of_break)
        self._passages.add(passage)
        try:
            yield passage
        finally:
            self._passages.discard(passage)
            passage.close()

    def prefer(self, sampling: Mapping[SamplingName, float]) -> None:
        """Nothing to do: its command says so, and another word on it is another start (catalogue_change)."""

    def fail_waiting(self, failure: CortexError) -> int:
        """As many requests that have given nothing yet as wait in the server: the latest of them."""
        unstarted = sorted((each for each in self._passages if not each.started), key=lambda each: each.asked_at)
        waiting = unstarted[max(0, len(unstarted) - self.figures.waiting) :]
        for passage in waiting:
            passage.fail(failure)
        return len(waiting)

    def fail_all(self, failure: CortexError) -> None:
        """Fail every request in flight."""
        for passage in self._passages:
            passage.fail(failure)

    async def end(self, grace_s: float) -> None:
        """SIGTERM to the whole group, then SIGKILL. Leaves no process and no socket.

        Where not even that helps the daemon ends, as with an engine group (case T4).
        """
        self._ending = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        try:
            await self._process.end(max(grace_s, _TERM_S) if grace_s else _DEAD_TERM_S)
        except ServerUnkillable as failure:
            logs.error("group_unkillable", message=str(failure), pids=self.pids)
            os._exit(os.EX_SOFTWARE)
        self.fail_all(GroupDied("the model was unloaded while it answered"))
        await self._session.close()
        self._socket.unlink(missing_ok=True)

    async def _cause_of_break(self) -> CortexError | None:
        """Why a request broke off, if the server died of it: that is mostly known a moment later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.shield(self.died)
        return self._death_error() if self.died.done() else None

    # ---- supervision

    async def _watch(self) -> None:
        """Give it up when it has been silent, or has had work and taken no step, for longer than a step may take."""
        now = asyncio.get_running_loop().time
        silent_s = stuck_s = 0.0
        while not self.died.done():
            began, steps = now(), self.figures.steps
            await asyncio.sleep(min(_TICK_S, self._silence_s / 4))
            well = await self._is_well() and await self._look()
            # Bounded: a daemon that stood still itself heard nobody.
            took_s = min(now() - began, _TICK_S + _ASK_S)
            silent_s = 0.0 if well else silent_s + took_s
            stuck_s = stuck_s + took_s if self.figures.running and self.figures.steps == steps else 0.0
            limit = f"within {self._silence_s:g} s"
            if silent_s > self._silence_s:
                self._die(Death("vllm_silent", f"vllm did not answer /health {limit}", None))
            elif stuck_s > self._silence_s:
                self._die(Death("step_timeout", f"vllm did not finish a step {limit}", None))

    async def _look(self) -> bool:
        """Renew the figures, while there is something to see."""
        figures = self.figures
        if self._passages or figures.running or figures.waiting or figures.kv_blocks_free != self.size.kv_blocks:
            try:
                self._take(await self._told())
            except (aiohttp.ClientError, TimeoutError, OSError):
                return False
        return True

    def _take(self, told: Told) -> None:
        figures = self.figures
        figures.running, figures.waiting = told.running, told.waiting
        figures.drafted, figures.accepted = told.drafted, told.accepted
        figures.kv_blocks_free = round(self.size.kv_blocks * (1 - told.kv_used))
        # Where it counts no steps, each look is one: then silence alone is a fault.
        figures.steps = figures.steps + 1 if told.steps is None else told.steps

    def _exited(self, _: asyncio.Future[int]) -> None:
        words = self._process.words_of_end()
        self._die(Death("out_of_memory" if "OutOfMemoryError" in words else "vllm_died", words, None))

    def _die(self, death: Death) -> None:
        if self._ending or self.died.done():
            return
        logs.error("vllm_died", kind=death.kind, message=death.message, pid=self._process.pid)
        self.died.set_result(death)
        self.fail_all(self._death_error())

    def _death_error(self) -> GroupDied:
        return GroupDied(f"the engine died: {self.died.result().message}")

    # ---- its own routes

    async def _is_well(self) -> bool:
        try:
            async with self._session.get(f"{BASE}/health", timeout=self._small) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _told(self) -> Told:
        async with self._session.get(f"{BASE}/metrics", timeout=self._small) as answer:
            return exposition.read(await answer.text())

    async def _get_json(self, path: str) -> Any:
        async with self._session.get(BASE + path, timeout=self._small) as answer:
            return await answer.json()


class Ended(Exception):
    """It ended before it was ready."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.message)
        self.death = death
