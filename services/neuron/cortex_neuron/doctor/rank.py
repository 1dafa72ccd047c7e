"""The ranks of an examination: the engine's own, which find together as for a load, and then measure.

Owns: the answer to a `measure` frame, on either side. Does not own: the handshake (engine.leader), the daemon's socket
(engine.mailbox), the leader's (engine.peers) or the measurement (bandwidth). Called by:
cortex_neuron.group.entry.run_rank.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cortex_neuron.doctor.bandwidth import slowest, time_all_reduces
from cortex_neuron.engine.communicator import initialised
from cortex_neuron.engine.leader import Beside, Leader
from cortex_neuron.engine.mailbox import Mailbox
from cortex_neuron.engine.peers import Peers
from cortex_neuron.engine.rank import Rank0, tie_to_parent
from cortex_neuron.engine.worker import LeaderLine, Worker
from cortex_neuron.protocol.failures import NcclSanityFailed, RankFailure
from cortex_neuron.protocol.frames import (
    FromWorker,
    LoadProgress,
    Measure,
    Measured,
    Pong,
    SanityCheck,
    ToRank,
    ToWorker,
)

_LAST_S = 0.5  # that a rank waits before it says that it has failed


class DoctorWorker(Worker):
    """A worker that measures."""

    def perform(self, frame: ToWorker) -> FromWorker | None:
        with _speaking_last(self._rank):
            if not isinstance(frame, Measure):
                return super().perform(frame)
            return Measured(seq=frame.seq, seconds=time_all_reduces(initialised(self._communicator), frame.num_bytes))


class DoctorPeers(Peers):
    """Workers; the daemon is told how far the handshake with them is."""

    def __init__(self, address: str, world_size: int, mailbox: Mailbox) -> None:
        super().__init__(address, world_size)
        self._mailbox = mailbox

    def tell(self, frame: ToWorker) -> int:
        if isinstance(frame, SanityCheck):
            self._mailbox.send(LoadProgress(phase="sanity", fraction=0.0))
        return super().tell(frame)


class DoctorRank0(Rank0):
    """A leader that measures; it is one even where it is alone, so that one device is tried, too."""

    def __init__(self, mailbox: Mailbox, peers: Peers) -> None:
        super().__init__(mailbox, peers)
        self._workers = peers

    def _do(self, frame: ToRank) -> None:
        if not isinstance(frame, Measure):
            super()._do(frame)
            return
        with _speaking_last(0):
            self._mailbox.send(self._measure(frame))

    def _measure(self, frame: Measure) -> Measured:
        if self._leader is None:
            self._mailbox.pong = Pong(rank=0, world_size=len(frame.devices), device=frame.devices[0])
            self._leader = Leader.assemble(self._workers, frame)
            self._mailbox.send(LoadProgress(phase="all_reduce", fraction=0.0))
        communicator = self._leader.communicator
        self._workers.tell(frame)
        timing = Beside(lambda: time_all_reduces(communicator, frame.num_bytes))
        theirs = self._workers.answers(
            Measured, frame.timeout_s, NcclSanityFailed, "measure", meanwhile=timing.raise_if_failed
        )
        own = timing.result(frame.timeout_s, NcclSanityFailed, "finish the all-reduces")
        return Measured(seq=frame.seq, seconds=slowest([own, *(each.seconds for each in theirs.values())]))


@contextmanager
def _speaking_last(rank: int) -> Iterator[None]:
    """A connection that breaks is most often another rank's end. The daemon sees that one at once, and takes the first
    that it hears of for the cause: so this rank waits a moment. What torch raises is the exchange's failure here."""
    try:
        yield
    except RankFailure:
        time.sleep(_LAST_S)
        raise
    except Exception as error:
        time.sleep(_LAST_S)
        raise NcclSanityFailed(f"rank {rank} cannot add up with the others: {error}") from error


def main(address: str, rank: int, world_size: int, worker: type[DoctorWorker] = DoctorWorker) -> None:
    """Serve the examination at `address` until it says Shutdown, or a fault."""
    os.dup2(2, 1)  # NCCL_DEBUG writes to standard output, where the report goes
    tie_to_parent()
    mailbox = Mailbox(address, rank, Pong(rank=rank, world_size=world_size, device="none"))
    try:
        if rank:
            worker(mailbox, LeaderLine(address, rank), rank).serve()
        else:
            DoctorRank0(mailbox, DoctorPeers(address, world_size, mailbox)).serve()
    except RankFailure:
        sys.exit(1)  # in words that the daemon has been told
    finally:
        mailbox.close()
