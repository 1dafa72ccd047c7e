"""The all-reduces of `cortex doctor`, between threads that are ranks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import Tensor

from cortex_neuron.doctor.bandwidth import NUM_SAMPLES, slowest, time_all_reduces
from cortex_neuron.engine.communicator import Communicator, Rendezvous, join
from cortex_neuron.protocol.failures import NcclSanityFailed

TIMEOUT_S = 30.0


def on_both_ranks(call: Callable[[Communicator], list[float]]) -> list[list[float]]:
    rendezvous = Rendezvous(TIMEOUT_S)

    def one(rank: int) -> list[float]:
        return call(join(str(rendezvous.id), rank, 2, "cpu", TIMEOUT_S, None if rank else rendezvous.store))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


def test_each_sample_has_a_time() -> None:
    """Of which the slower rank's counts."""
    samples = on_both_ranks(lambda communicator: time_all_reduces(communicator, 1 << 16))
    assert [len(each) for each in samples] == [NUM_SAMPLES] * 2
    assert min(map(min, samples)) > 0
    assert slowest([[1.0, 5.0], [2.0, 3.0]]) == [2.0, 5.0]


def test_one_sum_that_is_wrong_is_found() -> None:
    """Among many, and not only where the one number of the sanity check is."""

    def spoilt(communicator: Communicator) -> list[float]:
        summed = communicator.all_reduce

        def all_reduce(tensor: Tensor) -> Tensor:
            summed(tensor)[-1] += 1
            return tensor

        communicator.all_reduce = all_reduce  # type: ignore[method-assign]
        return time_all_reduces(communicator, 1 << 16)

    with pytest.raises(NcclSanityFailed, match="rank 0 sees 1 of 16384 sums over 2 ranks spoilt"):
        on_both_ranks(spoilt)
