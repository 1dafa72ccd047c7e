"""The communicator: its id, the order in which faults are found, and what ranks compute together over gloo."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cortex_neuron.engine.communicator import (
    ID_BYTES,
    Communicator,
    CommunicatorId,
    Rendezvous,
    initialised,
    join,
    sane,
)
from cortex_neuron.protocol.failures import (
    CudaNotBuilt,
    NcclInitFailed,
    NcclNotInitialised,
    NcclSanityFailed,
    RankFailure,
)

DEADLINE_S = 20.0
IS_CPU_BUILD = torch.version.cuda is None


def together(world_size: int, work: Callable[[Communicator], Any]) -> list[Any]:
    """What `work` gives each rank of a group, each in a thread."""
    rendezvous = Rendezvous(DEADLINE_S)
    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        store = None if rank else rendezvous.store
        try:
            results[rank] = work(join(str(rendezvous.id), rank, world_size, "cpu", DEADLINE_S, store))
        except Exception as error:
            results[rank] = error

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(2 * DEADLINE_S)
    return results


def test_an_id_is_256_lowercase_hex_characters_and_is_read_in_either_case() -> None:
    """128 bytes, as long as NCCL's own; two are never alike."""
    first, second = Rendezvous(DEADLINE_S).id, Rendezvous(DEADLINE_S).id
    text = str(first)
    assert len(text) == 2 * ID_BYTES == 256
    assert text == text.lower()
    assert CommunicatorId.parse(text) == CommunicatorId.parse(text.upper()) == first
    assert first.tail != second.tail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abc", "odd number of hex characters, 3"),
        ("zz" * ID_BYTES, "is not hex"),
        ("ff" * 127, "127 bytes, expected 128"),
        ("ff" * 129, "129 bytes, expected 128"),
        ("", "0 bytes, expected 128"),
        ("ff " * 127 + "ff\n", "127 bytes|128 bytes"),
        ("ff" * ID_BYTES, "no id of cortex"),
    ],
)
def test_what_is_no_id_is_refused_with_its_own_reason(text: str, words: str) -> None:
    """Before a connection is made to anybody."""
    with pytest.raises(NcclInitFailed, match=words):
        join(text, 1, 2, "cpu", DEADLINE_S)


@pytest.mark.skipif(not IS_CPU_BUILD, reason="this torch has CUDA")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("comm_id", ["ff" * ID_BYTES, "zz"])
def test_a_gpu_that_this_build_cannot_use_is_said_first_and_by_leader_and_worker_alike(rank: int, comm_id: str) -> None:
    """The most basic fault, whatever the id; never another backend."""
    with pytest.raises(CudaNotBuilt) as raised:
        join(comm_id, rank, 2, "cuda:0", DEADLINE_S)
    assert raised.value.kind == "cuda_feature_not_enabled"


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_observes_the_sum_of_all_and_the_leader_gathers_in_order(world_size: int) -> None:
    """And each collective that is begun is counted."""

    def work(ranks: Communicator) -> tuple[int, list[float], Any, int]:
        summed = ranks.all_reduce(torch.full((3,), float(ranks.rank + 1))).tolist()
        gathered = ranks.gather(torch.full((1, 2), float(ranks.rank)))
        return ranks.observed_sum(), summed, gathered if gathered is None else gathered.tolist(), ranks.num_entered

    results = together(world_size, work)
    total = float(sum(range(1, world_size + 1)))
    whole = [[float(rank) for rank in range(world_size) for _ in range(2)]]
    assert results == [(world_size, [total] * 3, None if rank else whole, 3) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_gets_the_smallest_number_of_all(world_size: int) -> None:
    """Whole numbers as large as a memory has bytes; it is a collective, and counted as one."""

    def work(ranks: Communicator) -> tuple[int, int]:
        return ranks.smallest((1 << 40) - ranks.rank), ranks.num_entered

    assert together(world_size, work) == [((1 << 40) - world_size + 1, 1)] * world_size


def test_two_groups_live_in_one_process_and_another_after_one_that_failed() -> None:
    """No default group, no state that outlives a group."""

    def leave(ranks: Communicator) -> str:
        if ranks.rank:
            ranks.abort()
            return "left"
        return str(ranks.observed_sum())

    failed, left = together(2, leave)
    assert isinstance(failed, Exception)
    assert left == "left"
    assert together(2, Communicator.observed_sum) == [2, 2]


def test_ranks_that_do_not_all_come_are_given_up_in_bounded_time() -> None:
    """Of two there is one: that is a failed init, with the deadline's words (case T3)."""
    rendezvous = Rendezvous(1.0)
    with pytest.raises(NcclInitFailed, match="rank 0 of 2 cannot join"):
        join(str(rendezvous.id), 0, 2, "cpu", 1.0, rendezvous.store)


def test_a_stranger_who_does_not_know_the_tail_does_not_join() -> None:
    """Another tail on the same address is another group."""
    rendezvous = Rendezvous(1.0)
    stranger = CommunicatorId(rendezvous.id.host, rendezvous.id.port, bytes(len(rendezvous.id.tail)))
    results: list[BaseException] = []

    def run(rank: int, comm_id: CommunicatorId) -> None:
        try:
            join(str(comm_id), rank, 2, "cpu", 1.0)
        except RankFailure as failure:
            results.append(failure)

    ranks = [threading.Thread(target=run, args=each) for each in ((0, rendezvous.id), (1, stranger))]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(DEADLINE_S)
    assert [type(each) for each in results] == [NcclInitFailed] * 2


def test_a_sum_that_is_not_the_number_of_ranks_is_insane() -> None:
    """Figures and rank are in the words."""
    sane(4, 0, 4)
    with pytest.raises(NcclSanityFailed, match="rank 2 observed a sum of 3 over 4 ranks"):
        sane(3, 2, 4)


def test_a_collective_before_init_is_said_to_be_that() -> None:
    """Not an attribute error."""
    with pytest.raises(NcclNotInitialised):
        initialised(None)
