"""An engine group, seen from the daemon: started, loaded, asked, watched, ended.

Owns: the conversation with the ranks, its deadlines, and who gets which output. Does not own: which models are
wanted (residency) or what text is (text). Supervision never depends on the group's help: a group that hangs is
killed from outside (case T4). Called by: residency and inference.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cortex_contracts.wire.errors import CortexError, GroupDied
from cortex_neuron.group import rank_process
from cortex_neuron.group.death import Death, GroupFailed, of_exit
from cortex_neuron.group.failures import of_frame
from cortex_neuron.group.stream import Stream
from cortex_neuron.protocol import frames
from cortex_neuron.protocol.channel import RankChannel, RankUnreachable
from cortex_neuron.protocol.priority import turn
from cortex_serving import logs

T = TypeVar("T")

_END_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Deadlines of one group. Past any of them the group is killed."""

    load_timeout_s: float  # from spawn to loaded
    step_timeout_s: float
    rank_module: str


@dataclass(slots=True)
class GroupFigures:
    """What the last step said, for /health and /metrics."""

    running: int = 0
    waiting: int = 0
    kv_blocks_free: int = 0
    steps: int = 0


class Group:
    """One loaded model's processes. `died` is done when the group ended without being asked to."""

    def __init__(self, channel: RankChannel, limits: GroupLimits) -> None:
        self.figures = GroupFigures()
        self.died: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.loaded: frames.Loaded | None = None
        self._channel = channel
        self._limits = limits
        self._rank: rank_process.RankProcess | None = None
        self._serial = itertools.count(1)
        self._streams: dict[int, Stream] = {}  # by sequence
        self._replies: dict[int, asyncio.Future[frames.FromRank]] = {}  # by seq of the request
        self._on_progress: Callable[[frames.LoadProgress], None] = lambda _: None
        self._hello: asyncio.Future[frames.Pong] = asyncio.get_running_loop().create_future()
        self._heard_at = self._stepped_at = self._now()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    @staticmethod
    async def start(path: Path, limits: GroupLimits) -> Group:
        """Spawn the processes and hear them say hello. Raises GroupFailed; nothing is then left behind."""
        group = Group(RankChannel(path), limits)
        try:
            rank = await rank_process.spawn(limits.rank_module, group._channel.address, 0, limits.load_timeout_s)
            group._rank = rank
            rank.exited.add_done_callback(lambda exited: group._die(of_exit(rank.rank, exited.result())))
            group._tasks.append(asyncio.create_task(group._read()))
            await group._reply(group._hello, limits.load_timeout_s, "hello_timeout", "did not say hello")
        except BaseException:
            await group.end(grace_s=0.0)
            raise
        return group

    @property
    def pid(self) -> int | None:
        """Rank 0's process, for logs and tests."""
        return self._rank.pid if self._rank is not None else None

    async def load(
        self, request: frames.Load, timeout_s: float, on_progress: Callable[[frames.LoadProgress], None]
    ) -> frames.Loaded:
        """Load the model into the group. Raises GroupFailed."""
        self._on_progress = on_progress
        answer = await self._ask(request, timeout_s, "load_timeout", "did not finish loading")
        if not isinstance(answer, frames.Loaded):
            raise GroupFailed(Death("bad_request", f"rank 0 answered load with {type(answer).__name__}"))
        self.loaded = answer
        self.figures.kv_blocks_free = answer.kv_blocks
        self._stepped_at = self._heard_at = self._now()
        self._tasks.append(asyncio.create_task(self._watch()))
        return answer

    def submit(self, submissions: Sequence[frames.Submit]) -> Stream:
        """Start sequences; their ids are given here. Raises GroupDied."""
        self._raise_if_dead()
        if not self._streams:
            self._stepped_at = self._now()
        ids = [next(self._serial) for _ in submissions]
        stream = Stream(ids, turn(submissions[0].priority, self._now()), self._cancel)
        self._streams.update(dict.fromkeys(ids, stream))
        try:
            for sequence, submission in zip(ids, submissions, strict=True):
                self._channel.send(0, msgspec.structs.replace(submission, seq=sequence, id=sequence))
        except RankUnreachable as failure:
            self._die(Death("rank_died", str(failure)))
            raise self._death_error() from failure
        return stream

    def fail_waiting(self, failure: CortexError) -> int:
        """Fail the requests that wait for a seat: those whose turn is the latest. How many.

        One whose prompt is being read counts as unstarted, too: it may be sent away in the place of another.
        """
        unstarted = [sequence for sequence in self._streams if not self._streams[sequence].started]
        unstarted.sort(key=lambda sequence: self._streams[sequence].turn)
        # The engine counts those it has put back, too: they have started.
        first = max(0, len(unstarted) - self.figures.waiting)
        waiting = {self._streams[sequence] for sequence in unstarted[first:]}
        for stream in waiting:
            stream.fail(failure)
        return len(waiting)

    def fail_all(self, failure: CortexError) -> None:
        """Fail every request in flight."""
        for stream in set(self._streams.values()):
            stream.fail(failure)

    async def end(self, grace_s: float = _END_GRACE_S) -> None:
        """End the processes: by a frame, by SIGTERM, by SIGKILL. Leaves no process, no socket, no file."""
        self._ending = True
        rank = self._rank
        if rank is not None and not rank.exited.done():
            with contextlib.suppress(RankUnreachable):
                self._channel.send(0, frames.Shutdown(seq=next(self._serial)))
            await rank.end(grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._channel.close()
        self.fail_all(GroupDied("the model was unloaded while it answered"))

    # ---- frames

    async def _read(self) -> None:
        while True:
            try:
                frame = await self._channel.receive()
            except frames.FrameInvalid as invalid:
                self._die(Death(invalid.kind, f"rank 0 sent a frame that is not one: {invalid}"))
                return
            self._heard_at = self._now()
            self._take(frame)

    def _take(self, frame: frames.FromRank) -> None:
        match frame:
            case frames.Stepped():
                self._take_step(frame)
            case frames.LoadProgress():
                self._on_progress(frame)
            case frames.Error(fatal=True):
                self._die(Death(frame.kind, frame.message, frame.rank))
            case frames.Error() if frame.seq in self._streams:
                self._streams.pop(frame.seq).fail(of_frame(frame.kind, frame.message))
            case frames.Pong() if not self._hello.done():
                self._hello.set_result(frame)
            case _:
                reply = self._replies.pop(frame.seq, None)
                if reply is not None and not reply.done():
                    reply.set_result(frame)  # else it is stale: its asker has gone (case T1)

    def _take_step(self, step: frames.Stepped) -> None:
        self._stepped_at = self._heard_at
        self.figures.running, self.figures.waiting = step.running, step.waiting
        self.figures.kv_blocks_free = step.kv_blocks_free
        self.figures.steps += 1
        for output in step.outputs:
            stream = self._streams.get(output.id)  # None: cancelled while the step ran
            if stream is not None:
                if output.finish is not None:
                    del self._streams[output.id]
                stream.put(output)

    def _cancel(self, sequences: Sequence[int]) -> None:
        known = [sequence for sequence in sequences if self._streams.pop(sequence, None) is not None]
        if known and not self.died.done():
            with contextlib.suppress(RankUnreachable):
                self._channel.send(0, frames.Cancel(seq=next(self._serial), ids=known))

    # ---- deadlines

    async def _ask(self, request: frames.ToRank, timeout_s: float, kind: str, failing: str) -> frames.FromRank:
        numbered = msgspec.structs.replace(request, seq=next(self._serial))
        reply: asyncio.Future[frames.FromRank] = asyncio.get_running_loop().create_future()
        self._replies[numbered.seq] = reply
        try:
            self._channel.send(0, numbered)
            answer = await self._reply(reply, timeout_s, kind, failing)
        except RankUnreachable as failure:
            raise GroupFailed(Death("rank_died", str(failure))) from failure
        finally:
            self._replies.pop(numbered.seq, None)
        if isinstance(answer, frames.Error):
            raise GroupFailed(Death(answer.kind, answer.message, answer.rank))
        return answer

    async def _reply(self, reply: asyncio.Future[T], timeout_s: float, kind: str, failing: str) -> T:
        ends: set[asyncio.Future[Any]] = {reply, self.died}
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if reply.done():
            return reply.result()
        if self.died.done():
            raise GroupFailed(self.died.result())
        raise GroupFailed(Death(kind, f"rank 0 {failing} within {timeout_s:g} s"))

    async def _watch(self) -> None:
        """Kill a group that is busy without a step, or silent, for longer than a step may take."""
        limit = self._limits.step_timeout_s
        pause = min(1.0, limit / 4)
        while not self.died.done():
            due = self._now() + pause
            await asyncio.sleep(pause)
            now = self._now()
            # While the daemon itself stood still it could hear nobody.
            self._stepped_at = min(now, self._stepped_at + now - due)
            self._heard_at = min(now, self._heard_at + now - due)
            if self._streams and now - self._stepped_at > limit:
                self._die(Death("step_timeout", f"rank 0 did not finish a step within {limit:g} s"))
            elif now - self._heard_at > limit + 1.0:
                self._die(Death("ping_timeout", f"rank 0 has been silent for {limit:g} s"))
            else:
                with contextlib.suppress(RankUnreachable):
                    self._channel.send(0, frames.Ping(seq=next(self._serial)))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # ---- death

    def _die(self, death: Death) -> None:
        if self._ending or self.died.done():
            return
        logs.error("group_died", kind=death.kind, message=death.message, rank=death.rank, pid=self.pid)
        self.died.set_result(death)
        self.fail_all(self._death_error())

    def _death_error(self) -> GroupDied:
        return GroupDied(f"the engine died: {self.died.result().message}")

    def _raise_if_dead(self) -> None:
        if self.died.done():
            raise self._death_error()
