"""The leader and its workers, with workers that answer as the test says, over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from cortex_neuron.engine.leader import _Together
from cortex_neuron.engine.peers import Peers
from cortex_neuron.layers.batch import Tables, make_batch
from cortex_neuron.protocol.addresses import identity, peers_address
from cortex_neuron.protocol.failures import NcclInitFailed, RanksDiverged, WorkerFailed
from cortex_neuron.protocol.frames import (
    Error,
    FromWorker,
    InitOk,
    Ping,
    Pong,
    Resume,
    SanityCheck,
    SanityResult,
    Shutdown,
    Step,
    StepDone,
    ToWorker,
    decode_to_worker,
    encode,
)

Answers = Callable[[int, ToWorker], list[FromWorker | bytes]]  # of a rank, to a frame
DEADLINE_S = 5.0


class Scripted:
    """Workers of a leader under test, each in a thread; `heard` has the frames by rank."""

    def __init__(self, address: str, world_size: int, answers: Answers) -> None:
        self.answers = answers
        self.heard: dict[int, list[ToWorker]] = {rank: [] for rank in range(1, world_size)}
        self._threads = [threading.Thread(target=self._run, args=(address, rank)) for rank in self.heard]
        for each in self._threads:
            each.start()

    def join(self) -> None:
        for each in self._threads:
            each.join(DEADLINE_S)

    def _run(self, address: str, rank: int) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.identity, socket.linger = identity(rank), 0
        socket.connect(peers_address(address))
        socket.send(encode(Pong(rank=rank, world_size=len(self.heard) + 1, device="cpu")))
        while True:
            frame = decode_to_worker(socket.recv())
            self.heard[rank].append(frame)
            if isinstance(frame, Shutdown):
                break
            for answer in self.answers(rank, frame):
                socket.send(answer if isinstance(answer, bytes) else encode(answer))
        context.destroy()


@contextmanager
def group(tmp_path: Path, world_size: int, answers: Answers) -> Iterator[tuple[Peers, Scripted]]:
    """A leader's line that has met its workers."""
    address = f"ipc://{tmp_path}/g"
    peers = Peers(address, world_size)
    workers = Scripted(address, world_size, answers)
    try:
        peers.meet(DEADLINE_S, NcclInitFailed)
        yield peers, workers
    finally:
        peers.tell(Shutdown())
        workers.join()
        peers.close()


def pong(rank: int, seq: int) -> Pong:
    return Pong(seq=seq, rank=rank, world_size=3, device="cpu")


def test_each_worker_answers_once_and_what_is_stale_or_comes_twice_is_dropped(tmp_path: Path) -> None:
    """The answer to an older request, and a second one, answer nothing that is asked later (case T1)."""

    def answers(rank: int, frame: ToWorker) -> list[FromWorker | bytes]:
        if isinstance(frame, Ping):
            return [pong(rank, frame.seq - 1), pong(rank, frame.seq), pong(rank, frame.seq), pong(rank, frame.seq + 7)]
        return [SanityResult(seq=frame.seq, observed_sum=10 + rank)]

    with group(tmp_path, 3, answers) as (peers, workers):
        for _ in range(3):
            peers.tell(Ping())
            assert set(peers.answers(Pong, DEADLINE_S, NcclInitFailed, "ping")) == {1, 2}
            peers.tell(SanityCheck())
            seen = peers.answers(SanityResult, DEADLINE_S, NcclInitFailed, "sanity_check")
            assert {rank: each.observed_sum for rank, each in seen.items()} == {1: 11, 2: 12}
    assert [frame.seq for frame in workers.heard[1]] == [1, 2, 3, 4, 5, 6, 7]


def test_a_worker_that_never_answers_a_ping_ends_the_wait_by_name(tmp_path: Path) -> None:
    """At the deadline, with its rank (case T3)."""

    def answers(rank: int, frame: ToWorker) -> list[FromWorker | bytes]:
        return [pong(rank, frame.seq)] if rank == 1 else []

    with group(tmp_path, 3, answers) as (peers, _):
        peers.tell(Ping())
        with pytest.raises(NcclInitFailed, match=r"rank 2 did not answer ping within 0\.2 s") as raised:
            peers.answers(Pong, 0.2, NcclInitFailed, "ping")
        assert raised.value.rank == 2


def test_a_worker_that_does_not_come_ends_the_wait_by_name(tmp_path: Path) -> None:
    """It may have been killed before its hello."""
    peers = Peers(f"ipc://{tmp_path}/g", 2)
    with pytest.raises(NcclInitFailed, match="rank 1 did not reach the leader"):
        peers.meet(0.1, NcclInitFailed)
    with pytest.raises(WorkerFailed, match="rank 1 is not connected"):
        peers.tell(Ping())
    peers.close()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda seq: b"\xc1", "bad_request", "rank 2 answered with a frame that is not one"),
        (lambda seq: b"\x81\xa2op\xa5dance", "unknown_op", "rank 2 answered with a frame that is not one"),
        (lambda seq: InitOk(seq=seq), "rank_failed", "rank 2 answered ping with InitOk"),
        (lambda seq: Error(seq=seq, kind="device_lost", message="gone"), "device_lost", "gone"),
    ],
    ids=["garbage", "unknown op", "another answer", "an error"],
)
def test_what_is_no_answer_is_that_rank_s_failure(
    tmp_path: Path, answer: Callable[[int], Any], kind: str, words: str
) -> None:
    """With the kind that it gave, or that is given to it."""

    def answers(rank: int, frame: ToWorker) -> list[FromWorker | bytes]:
        return [pong(rank, frame.seq) if rank == 1 else answer(frame.seq)]

    with group(tmp_path, 3, answers) as (peers, _):
        peers.tell(Ping())
        with pytest.raises(WorkerFailed, match=words) as raised:
            peers.answers(Pong, DEADLINE_S, NcclInitFailed, "ping")
        assert (raised.value.rank, raised.value.kind) == (2, kind)


class Ranks:
    """A communicator that only counts."""

    num_entered = 0


class Failing:
    """A runner that enters some collectives and then fails, once."""

    def __init__(self, ranks: Ranks, entered: int) -> None:
        self.ranks, self.entered, self.failed = ranks, entered, False

    def run(self, batch: Any, drawn: torch.Tensor | None = None) -> torch.Tensor:
        if self.failed:
            return torch.zeros(1)
        self.failed = True
        self.ranks.num_entered += self.entered
        raise ValueError("a shape error")


ONE = np.array([0], np.int32)
BATCH = make_batch(np.array([5, 6], np.int32), ONE + 2, ONE, Tables(ONE + 3, ONE, 16), ONE)


def test_a_step_that_fails_alike_on_every_rank_fails_alone_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """The leader's own step raises after it was sent out; nothing of it is left in the way (cases T1, T5)."""

    def answers(rank: int, frame: ToWorker) -> list[FromWorker | bytes]:
        if isinstance(frame, Resume):
            return []
        if frame.seq == 1:
            return [Error(seq=1, kind="engine_error", message="a shape error", rank=rank, entered=2)]
        return [StepDone(seq=frame.seq)]

    ranks = Ranks()
    with group(tmp_path, 3, answers) as (peers, workers):
        runner = _Together(Failing(ranks, 2), peers, ranks)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="a shape error"):
            runner.run(BATCH)
        runner.run(BATCH)
        runner.run(BATCH)
    assert [type(frame) for frame in workers.heard[1]] == [Step, Resume, Step, Step, Shutdown]
    assert workers.heard[1][1] == Resume(seq=2, step=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (StepDone(seq=1), "rank 2 completed the step, after rank 0 failed: ValueError: a shape error"),
        (Error(seq=1, kind="engine_error", message="x", entered=1), "rank 2 failed at another collective"),
        (None, "rank 2 did not answer a step that failed on rank 0"),
    ],
    ids=["completed", "elsewhere", "waits"],
)
def test_a_step_that_does_not_fail_alike_ends_the_group(
    tmp_path: Path, answer: FromWorker | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some wait in a collective that will never be whole."""
    monkeypatch.setattr("cortex_neuron.engine.leader.VERDICT_S", 0.2)

    def answers(rank: int, frame: ToWorker) -> list[FromWorker | bytes]:
        if rank == 1:
            return [Error(seq=frame.seq, kind="engine_error", message="a shape error", entered=2)]
        return [answer] if answer is not None else []

    ranks = Ranks()
    with group(tmp_path, 3, answers) as (peers, _), pytest.raises(RanksDiverged, match=words):
        _Together(Failing(ranks, 2), peers, ranks).run(BATCH)  # type: ignore[arg-type]


def test_a_worker_that_failed_where_the_leader_did_not_is_found_at_the_next_step(tmp_path: Path) -> None:
    """It would be one step behind from then on."""

    def answers(rank: int, frame: ToWorker) -> list[FromWorker | bytes]:
        return [Error(seq=frame.seq, kind="engine_error", message="odd", rank=rank)]

    ranks = Ranks()
    working = Failing(ranks, 0)
    working.failed = True
    with group(tmp_path, 2, answers) as (peers, _):
        runner = _Together(working, peers, ranks)  # type: ignore[arg-type]
        runner.run(BATCH)
        while not peers.failures():  # until it has come
            pass
        with pytest.raises(RanksDiverged, match="rank 1 alone failed in the last step: odd"):
            runner.run(BATCH)
