"""An engine group, seen from the daemon: started, loaded, asked, watched, ended.

Owns: the conversation with the ranks, its deadlines, and who gets which output. Does not own: which models are
wanted (residency) or what text is (text). Supervision never depends on the group's help: a group that hangs is
killed from outside (case T4). Called by: residency and inference.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cortex_contracts.wire.errors import CortexError, GroupDied
from cortex_neuron.group import rank_process
from cortex_neuron.group.death import RANK_DIED, Death, GroupFailed, of_exit
from cortex_neuron.group.failures import of_frame
from cortex_neuron.group.pulses import Pulses
from cortex_neuron.group.stream import Stream
from cortex_neuron.protocol import frames
from cortex_neuron.protocol.channel import RankChannel, RankNonsense, RankUnreachable
from cortex_neuron.protocol.priority import turn
from cortex_serving import logs

T = TypeVar("T")

_END_GRACE_S = 2.0
_SETTLE_S = 0.25  # from the first sign of a fault until its cause is taken to be known


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Deadlines of one group. Past any of them the group is killed."""

    load_timeout_s: float  # from spawn to loaded
    step_timeout_s: float
    rank_module: str
    init_timeout_s: float = 60.0  # until ranks have found together; they keep to it themselves


@dataclass(slots=True)
class GroupFigures:
    """What the last step said, for /health and /metrics."""

    running: int = 0
    waiting: int = 0
    kv_blocks_free: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0


class Group:
    """One loaded model's processes. `died` is done when the group ended without being asked to."""

    def __init__(self, channel: RankChannel, limits: GroupLimits) -> None:
        self.figures = GroupFigures()
        self.died: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.loaded: frames.Loaded | None = None
        self._channel = channel
        self._limits = limits
        self._ranks: list[rank_process.RankProcess] = []
        self._serial = itertools.count(1)
        self._streams: dict[int, Stream] = {}  # by sequence
        self._replies: dict[int, asyncio.Future[frames.FromRank]] = {}  # by seq of the request
        self._on_progress: Callable[[frames.LoadProgress], None] = lambda _: None
        self._hellos: dict[int, asyncio.Future[frames.Pong]] = {}
        self._pulses = Pulses()
        self._stepped_at = self._now()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        self._first_fault: Death | None = None

    @staticmethod
    async def start(path: Path, limits: GroupLimits, world_size: int = 1) -> Group:
        """Spawn the processes and hear them say hello. Raises GroupFailed; nothing is then left behind."""
        group = Group(RankChannel(path), limits)
        group._hellos = {rank: asyncio.get_running_loop().create_future() for rank in range(world_size)}
        until = group._now() + limits.load_timeout_s
        try:
            group._tasks.append(asyncio.create_task(group._read()))
            await group._spawn(world_size)
            for rank, hello in group._hellos.items():
                left_s = max(0.0, until - group._now())
                await group._reply(hello, left_s, "hello_timeout", "did not say hello", rank)
            group._pulses.begin(group._hellos, group._now())
            group._tasks.append(asyncio.create_task(group._watch()))
        except BaseException:
            await group.end(grace_s=0.0)
            raise
        return group

    async def _spawn(self, world_size: int) -> None:
        """All ranks at the same time; those that have come up are ours to end, whatever becomes of the others."""
        module, timeout_s = self._limits.rank_module, self._limits.load_timeout_s

        async def one(rank: int) -> None:
            process = await rank_process.spawn(module, self._channel.address, rank, world_size, timeout_s)
            self._ranks.append(process)
            process.exited.add_done_callback(lambda exited: self._exited(rank, exited.result()))

        results = await asyncio.gather(*(one(rank) for rank in range(world_size)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    @property
    def pids(self) -> list[int]:
        """The ranks' processes, for logs, memory and tests."""
        return [rank.pid for rank in sorted(self._ranks, key=lambda rank: rank.rank)]

    async def load(
        self, request: frames.Load, timeout_s: float, on_progress: Callable[[frames.LoadProgress], None]
    ) -> frames.Loaded:
        """Load the model into the group. Raises GroupFailed."""
        self._on_progress = on_progress
        return self._take_loaded(await self._ask(request, timeout_s, "load_timeout", "did not finish loading"))

    def _take_loaded(self, answer: frames.FromRank) -> frames.Loaded:
        if not isinstance(answer, frames.Loaded):
            raise GroupFailed(Death("bad_request", f"rank 0 answered load with {type(answer).__name__}"))
        self.loaded = answer
        self.figures.kv_blocks_free = answer.kv_blocks
        self._stepped_at = self._now()
        return answer

    async def sleep(self, timeout_s: float) -> frames.Asleep:
        """Have the model give its devices back. Raises GroupFailed: then it is to be ended."""
        answer = await self._ask(frames.Sleep(timeout_s=timeout_s), timeout_s, "load_timeout", "did not fall asleep")
        if not isinstance(answer, frames.Asleep):
            raise GroupFailed(Death("bad_request", f"rank 0 answered sleep with {type(answer).__name__}"))
        return answer

    async def wake(self, timeout_s: float, on_progress: Callable[[frames.LoadProgress], None]) -> frames.Loaded:
        """Have it serve again. Raises GroupFailed."""
        self._on_progress = on_progress
        return self._take_loaded(
            await self._ask(frames.Wake(timeout_s=timeout_s), timeout_s, "load_timeout", "did not wake up")
        )

    async def measure(
        self, request: frames.Measure, timeout_s: float, on_progress: Callable[[frames.LoadProgress], None]
    ) -> frames.Measured:
        """Have the ranks find together and time all-reduces (cortex doctor). Raises GroupFailed."""
        self._on_progress = on_progress
        answer = await self._ask(request, timeout_s, "nccl_sanity_failed", "did not finish the measurement")
        if not isinstance(answer, frames.Measured):
            raise GroupFailed(Death("bad_request", f"rank 0 answered measure with {type(answer).__name__}"))
        return answer

    def submit(self, submissions: Sequence[frames.Submit]) -> Stream:
        """Start sequences; their ids are given here. Raises GroupDied."""
        ids = [next(self._serial) for _ in submissions]
        return self._begin(
            ids,
            [
                msgspec.structs.replace(submission, seq=sequence, id=sequence)
                for sequence, submission in zip(ids, submissions, strict=True)
            ],
        )

    def encode(self, asked: frames.Encode) -> Stream:
        """Start a sequence for each of its inputs; their ids are given here. Raises GroupDied."""
        ids = [next(self._serial) for _ in range(len(asked.lengths) // frames.INT32)]
        return self._begin(ids, [msgspec.structs.replace(asked, seq=ids[0], id=ids[0])])

    def _begin(self, ids: list[int], asked: Sequence[frames.Submit | frames.Encode]) -> Stream:
        self._raise_if_dead()
        if not self._streams:
            self._stepped_at = self._now()
        stream = Stream(ids, turn(asked[0].priority, self._now()), self._cancel)
        self._streams.update(dict.fromkeys(ids, stream))
        try:
            for frame in asked:
                self._channel.send(0, frame)
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
        """End the processes: by a frame, by SIGTERM, by SIGKILL. Leaves no process, no socket, no file.

        Where not even that helps the daemon ends, with exit code 70: whoever starts it again, such as systemd, clears
        its control group first, and no model is left waiting for memory that does not come back (case T4).
        """
        self._ending = True
        with contextlib.suppress(RankUnreachable):
            self._channel.send(0, frames.Shutdown(seq=next(self._serial)))  # rank 0 sends the others home
        try:
            await asyncio.gather(*(rank.end(grace_s) for rank in self._ranks))
        except rank_process.RankUnkillable as failure:
            logs.error("group_unkillable", message=str(failure), pids=self.pids)
            os._exit(os.EX_SOFTWARE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._channel.close()
        self.fail_all(GroupDied("the model was unloaded while it answered"))

    # ---- frames

    async def _read(self) -> None:
        while True:
            try:
                rank, frame = await self._channel.receive()
            except RankNonsense as nonsense:
                self._die(Death(nonsense.kind, str(nonsense), nonsense.rank))
                return
            self._pulses.heard(rank, self._now(), frame)
            self._take(rank, frame)

    def _take(self, rank: int, frame: frames.FromRank) -> None:
        match frame:
            case frames.Stepped():
                self._take_step(frame)
            case frames.LoadProgress():
                self._on_progress(frame)
            case frames.Error(fatal=True):
                self._fault(Death(frame.kind, frame.message, frame.rank))
            case frames.Error() if frame.seq in self._streams:
                self._streams.pop(frame.seq).fail(of_frame(frame.kind, frame.message))
            case frames.Pong() if (hello := self._hellos.get(rank)) is not None and not hello.done():
                hello.set_result(frame)
            case _:
                reply = self._replies.pop(frame.seq, None)
                if reply is not None and not reply.done():
                    reply.set_result(frame)  # else it is stale: its asker has gone (case T1)

    def _take_step(self, step: frames.Stepped) -> None:
        self._stepped_at = self._now()
        self.figures.running, self.figures.waiting = step.running, step.waiting
        self.figures.kv_blocks_free = step.kv_blocks_free
        self.figures.drafted, self.figures.accepted = step.drafted, step.accepted
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
            answer = await self._reply(reply, timeout_s, kind, failing, None)
        except RankUnreachable as failure:
            raise GroupFailed(Death("rank_died", str(failure))) from failure
        finally:
            self._replies.pop(numbered.seq, None)
        if isinstance(answer, frames.Error):
            raise GroupFailed(Death(answer.kind, answer.message, answer.rank))
        return answer

    async def _reply(self, reply: asyncio.Future[T], timeout_s: float, kind: str, failing: str, rank: int | None) -> T:
        """`rank`: who is to reply; None where all ranks have a part in it."""
        ends: set[asyncio.Future[Any]] = {reply, self.died}
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if reply.done():
            return reply.result()
        if self.died.done():
            raise GroupFailed(self.died.result())
        if rank is None:
            rank = self._pulses.late(self._now() - 2 * self._pause_s())
        raise GroupFailed(Death(kind, f"rank {rank} {failing} within {round(timeout_s, 2):g} s", rank))

    async def _watch(self) -> None:
        """Kill a group that is busy without a step for longer than one may take, or of which a rank is silent."""
        while not self.died.done():
            limit, pause = self._silence_s(), self._pause_s()
            due = self._now() + pause
            await asyncio.sleep(pause)
            now = self._now()
            # While the daemon itself stood still it could hear nobody.
            self._stepped_at = min(now, self._stepped_at + now - due)
            self._pulses.shift(now - due, now)
            if self._streams and now - self._stepped_at > limit:
                late = self._pulses.late(now - 2 * pause)
                self._die(Death("step_timeout", f"rank {late} did not finish a step within {limit:g} s", late))
            elif (silent := self._pulses.silent(now - limit - 1.0)) is not None:
                self._die(Death("ping_timeout", f"rank {silent} has been silent for {limit:g} s", silent))
            else:
                self._ping()

    def _silence_s(self) -> float:
        """How long a rank may be silent. One that loads answers pings, too: as long as the ranks may take to meet."""
        return self._limits.step_timeout_s if self.loaded is not None else self._limits.init_timeout_s

    def _pause_s(self) -> float:
        """Between two pings."""
        return min(1.0, self._silence_s() / 4)

    def _ping(self) -> None:
        for rank in self._hellos:
            with contextlib.suppress(RankUnreachable):
                self._channel.send(rank, frames.Ping(seq=next(self._serial)))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # ---- death

    def _exited(self, rank: int, code: int) -> None:
        """A process has ended. One that was killed is a cause of its own; another has mostly said why, and the frame
        may still be on its way."""
        if code < 0:
            self._die(of_exit(rank, code))
        else:
            self._fault(of_exit(rank, code))

    def _fault(self, death: Death) -> None:
        """One is known. Others in the group fail of it, too, and may be heard first: a killed process is told at once,
        and of the rest the first that was said."""
        if self._first_fault is None or self._first_fault.kind == RANK_DIED:
            self._first_fault = self._blamed(death)
        asyncio.get_running_loop().call_later(_SETTLE_S, lambda: self._die(self._first_fault or death))

    def _blamed(self, death: Death) -> Death:
        """Ranks that wait for one that hangs are late themselves, and may say so first."""
        silent = self._pulses.silent(self._now() - 2 * self._pause_s())
        if silent is None or silent == death.rank:
            return death
        return Death(death.kind, f"rank {silent} answers no ping; {death.message}", silent)

    def _die(self, death: Death) -> None:
        if self._ending or self.died.done():
            return
        logs.error("group_died", kind=death.kind, message=death.message, rank=death.rank, pids=self.pids)
        self.died.set_result(death)
        self.fail_all(self._death_error())

    def _death_error(self) -> GroupDied:
        return GroupDied(f"the engine died: {self.died.result().message}")

    def _raise_if_dead(self) -> None:
        if self.died.done():
            raise self._death_error()
