"""The leader's line to its workers: one ROUTER, a request to all of them, exactly one answer of each.

Owns: the socket, numbers of requests, and which answers count: one a worker and request; what is stale or comes twice
is dropped (case T1). Every wait has a deadline (case T3). Does not own: what is asked (engine.leader). Used from the
engine's thread alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import zmq

from cortex_neuron.protocol.addresses import identity, peers_address, rank_of
from cortex_neuron.protocol.failures import RankFailure, WorkerFailed
from cortex_neuron.protocol.frames import Error, FrameInvalid, FromWorker, ToWorker, decode_from_worker, encode

_LOOK_S = 0.05  # between two looks at what else may end a wait

Failing = Callable[[str, int], RankFailure]  # (message, rank): what a deadline that passes is called
Answer = TypeVar("Answer", bound=FromWorker)


class Peers:
    """The workers of a group of `world_size`, ranks 1 and up."""

    def __init__(self, address: str, world_size: int) -> None:
        self.world_size = world_size
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(peers_address(address))
        self._serial = itertools.count(1)
        self._seq = 0  # of the request that is under way
        self._answers: dict[int, FromWorker] = {}  # to it, by rank

    @property
    def ranks(self) -> range:
        """The workers'."""
        return range(1, self.world_size)

    def meet(self, timeout_s: float, failing: Failing) -> None:
        """Wait until every worker has said hello, which is an answer to no request. Raises `failing`."""
        self._collect(time.monotonic() + timeout_s, failing, "did not reach the leader", lambda: None)

    def tell(self, frame: ToWorker) -> int:
        """Send it to every worker, without a wait. The number of the request. Raises WorkerFailed."""
        self._seq, self._answers = next(self._serial), {}
        data = encode(msgspec.structs.replace(frame, seq=self._seq))
        for rank in self.ranks:
            try:
                self._socket.send_multipart([identity(rank), data], zmq.NOBLOCK)
            except zmq.ZMQError as failure:
                raise WorkerFailed(f"rank {rank} is not connected: {failure.strerror}", rank) from failure
        return self._seq

    def answers(
        self,
        kind: type[Answer],
        timeout_s: float,
        failing: Failing,
        asked: str,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[int, Answer]:
        """One answer of each worker to the request told last, by rank. `meanwhile` may raise what ends the wait.

        Raises `failing` for a worker that is late, WorkerFailed for one that failed or gave another answer.
        """
        found = self._collect(time.monotonic() + timeout_s, failing, f"did not answer {asked}", meanwhile)
        return {rank: _expected(kind, rank, answer, asked) for rank, answer in found.items()}

    def all_answers(self, timeout_s: float, failing: Failing, asked: str) -> dict[int, FromWorker]:
        """The same with whatever they answered, errors included."""
        return self._collect(time.monotonic() + timeout_s, failing, f"did not answer {asked}", lambda: None)

    def failures(self) -> dict[int, Error]:
        """Errors that have come in answer to the request told last, by rank, without a wait. Raises WorkerFailed."""
        while self._take(0.0):
            pass
        return {rank: answer for rank, answer in self._answers.items() if isinstance(answer, Error)}

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def _collect(
        self, until: float, failing: Failing, late: str, meanwhile: Callable[[], None]
    ) -> dict[int, FromWorker]:
        began = time.monotonic()
        while missing := [rank for rank in self.ranks if rank not in self._answers]:
            meanwhile()
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise failing(f"rank {missing[0]} {late} within {max(0.0, round(until - began, 2)):g} s", missing[0])
            self._take(min(left_s, _LOOK_S))
        return dict(self._answers)

    def _take(self, timeout_s: float) -> bool:
        """Whether something was there; it counts where it is the first answer to the request under way."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return False
        name, *_, data = self._socket.recv_multipart()
        rank = rank_of(name)
        try:
            frame = decode_from_worker(data)
        except FrameInvalid as invalid:
            message = f"rank {rank} answered with a frame that is not one: {invalid}"
            raise WorkerFailed(message, rank, invalid.kind) from invalid
        if frame.seq == self._seq:
            self._answers.setdefault(rank, frame)
        return True


def _expected(kind: type[Answer], rank: int, answer: FromWorker, asked: str) -> Answer:
    if isinstance(answer, Error):
        raise WorkerFailed(answer.message, rank, answer.kind)
    if not isinstance(answer, kind):
        raise WorkerFailed(f"rank {rank} answered {asked} with {type(answer).__name__}", rank)
    return answer
