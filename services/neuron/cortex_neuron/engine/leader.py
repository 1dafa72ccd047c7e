"""Rank 0 of a tensor-parallel group: its workers found, checked, loaded, told of each step, and sent home.

Owns: the order of the handshake (docs/protocol.md) and what becomes of a step that fails. Does not own: the socket
(engine.peers), the collectives (engine.communicator), or the engine. Called by: engine.rank.

The leader takes part in every collective itself, on a thread beside the one that watches what the workers say: a
worker that fails or is late ends the wait, though the collective would go on waiting for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from torch import Tensor

from cortex_neuron.engine.communicator import Communicator, Rendezvous, join, sane
from cortex_neuron.engine.failures import classify
from cortex_neuron.engine.peers import Peers
from cortex_neuron.engine.runner import Runs
from cortex_neuron.engine.step_frame import pack
from cortex_neuron.layers.batch import Batch
from cortex_neuron.models.devices import find_device
from cortex_neuron.protocol.failures import (
    LoadTimedOut,
    NcclInitFailed,
    NcclSanityFailed,
    RankFailure,
    RanksDiverged,
    WorkerFailed,
)
from cortex_neuron.protocol.frames import (
    Asleep,
    Bye,
    Error,
    Init,
    InitOk,
    Load,
    Loaded,
    Measure,
    Ping,
    Pong,
    Resume,
    SanityCheck,
    SanityResult,
    Shutdown,
    Sleep,
    Wake,
)

# How long a worker may take to say that it has failed in a step, too. One that has not waits in a collective.
VERDICT_S = 1.0
_BYE_S = 1.0

_Result = TypeVar("_Result")


class Leader:
    """The workers, once they are one group with this rank. `communicator` is theirs and ours."""

    def __init__(self, peers: Peers, communicator: Communicator) -> None:
        self._peers, self.communicator = peers, communicator

    @classmethod
    def assemble(cls, peers: Peers, load: Load | Measure) -> Leader:
        """Ping, init, sanity check. Raises CannotLoad and WorkerFailed, with the rank whose fault it is."""
        find_device(load.devices[0])
        until = time.monotonic() + load.init_timeout_s
        peers.meet(load.init_timeout_s, NcclInitFailed)
        peers.tell(Ping())
        peers.answers(Pong, until - time.monotonic(), NcclInitFailed, "ping")
        communicator = _init(peers, load, until - time.monotonic())
        _check(peers, communicator, load.init_timeout_s)
        return cls(peers, communicator)

    def tell_load(self, load: Load) -> None:
        """Let the workers load their parts, without a wait: this rank loads its own meanwhile."""
        self._peers.tell(load)

    def tell(self, frame: Sleep | Wake) -> None:
        """The same of falling asleep and waking up."""
        self._peers.tell(frame)

    def asleep(self, own: Asleep, timeout_s: float) -> Asleep:
        """All sleep. Raises LoadTimedOut, WorkerFailed."""
        theirs = self._peers.answers(Asleep, timeout_s, LoadTimedOut, "sleep")
        return Asleep(seq=own.seq, host_mb=own.host_mb + sum(each.host_mb for each in theirs.values()))

    def loaded(self, own: Loaded, timeout_s: float) -> Loaded:
        """What the group as a whole came to. Raises LoadTimedOut, WorkerFailed."""
        theirs = self._peers.answers(Loaded, timeout_s, LoadTimedOut, "load")
        for rank, answer in theirs.items():
            if (answer.kv_blocks, answer.context) != (own.kv_blocks, own.context):
                raise WorkerFailed(
                    f"rank {rank} has a cache of {answer.kv_blocks} blocks for {answer.context} tokens, "
                    f"rank 0 one of {own.kv_blocks} for {own.context}",
                    rank,
                )
        return msgspec.structs.replace(
            own,
            vram_mb=own.vram_mb + sum(each.vram_mb for each in theirs.values()),
            weights_mb=own.weights_mb + sum(each.weights_mb for each in theirs.values()),
        )

    def leading(self, runner: Runs) -> Runs:
        """A runner whose every batch the workers compute, too."""
        return _Together(runner, self._peers, self.communicator)

    def shutdown(self) -> None:
        """Send the workers home; one that does not go is the daemon's to end."""
        try:
            self._peers.tell(Shutdown())
            self._peers.answers(Bye, _BYE_S, WorkerFailed, "shutdown")
        except RankFailure:
            return


def _init(peers: Peers, load: Load | Measure, timeout_s: float) -> Communicator:
    """The id is minted and written to all without a wait, then all join at the same time."""
    rendezvous = Rendezvous(timeout_s)
    comm_id, world_size = str(rendezvous.id), peers.world_size
    peers.tell(Init(comm_id=comm_id, world_size=world_size, devices=load.devices, timeout_s=timeout_s))
    joining = Beside(lambda: join(comm_id, 0, world_size, load.devices[0], timeout_s, rendezvous.store))
    peers.answers(InitOk, timeout_s, NcclInitFailed, "init", meanwhile=joining.raise_if_failed)
    return joining.result(timeout_s, NcclInitFailed, "join the communicator")


def _check(peers: Peers, communicator: Communicator, timeout_s: float) -> None:
    """Every rank adds 1 and must see as much as there are ranks."""
    peers.tell(SanityCheck())
    adding = Beside(communicator.observed_sum)
    seen = peers.answers(SanityResult, timeout_s, NcclSanityFailed, "sanity_check", meanwhile=adding.raise_if_failed)
    sane(adding.result(timeout_s, NcclSanityFailed, "add up"), 0, peers.world_size)
    for rank, result in seen.items():
        sane(result.observed_sum, rank, peers.world_size)


class _Together:
    """Runs a batch on every rank."""

    def __init__(self, runner: Runs, peers: Peers, communicator: Communicator) -> None:
        self._runner, self._peers, self._communicator = runner, peers, communicator

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab]. A step that fails alike on every rank raises what it failed of, and the group goes on
        (case T5); RanksDiverged where some computed on, and wait in a collective that will never be whole."""
        assert drawn is None, "workers cannot be told of tokens that only the device has"
        for rank, failure in self._peers.failures().items():  # of the last step, which this rank completed
            raise RanksDiverged(f"rank {rank} alone failed in the last step: {failure.message}", rank)
        entered = self._communicator.num_entered
        seq = self._peers.tell(pack(batch))
        try:
            return self._runner.run(batch)
        except Exception as error:
            if not classify(error).fatal:
                self._settle(seq, error, self._communicator.num_entered - entered)
            raise

    def _settle(self, seq: int, error: Exception, entered: int) -> None:
        """Raises RanksDiverged unless every worker has failed where this rank has."""

        def diverged(message: str, rank: int) -> RanksDiverged:
            return RanksDiverged(f"{message}, after rank 0 failed: {type(error).__name__}: {error}", 0)

        for rank, answer in self._peers.all_answers(VERDICT_S, diverged, "a step that failed on rank 0").items():
            if not isinstance(answer, Error):
                raise diverged(f"rank {rank} completed the step", rank) from error
            if answer.entered != entered:
                raise diverged(f"rank {rank} failed at another collective: {answer.message}", rank) from error
        self._peers.tell(Resume(step=seq))


class Beside(Generic[_Result]):
    """A call on a thread of its own, which may never return; then the process ends without it."""

    def __init__(self, call: Callable[[], _Result]) -> None:
        self._call = call
        self._results: list[_Result] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="collective", daemon=True)
        self._thread.start()

    def raise_if_failed(self) -> None:
        """Raises what it has failed of."""
        if self._error is not None:
            raise self._error

    def result(self, timeout_s: float, failing: Callable[[str, int], RankFailure], what: str) -> _Result:
        """Raises what it failed of, or `failing` past the deadline."""
        self._thread.join(timeout_s)
        self.raise_if_failed()
        if not self._results:
            raise failing(f"rank 0 did not {what} within {round(timeout_s, 2):g} s", 0)
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except Exception as error:  # noqa: BLE001  whoever waits is told
            self._error = error
