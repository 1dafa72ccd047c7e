"""How long an all-reduce takes.

Owns: the measurement, by one rank; all must make it at the same time. Does not own: what the times mean (findings).
Called by: doctor.rank.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from cortex_neuron.engine.communicator import Communicator
from cortex_neuron.protocol.failures import NcclSanityFailed

NUM_SAMPLES = 5
# A small all-reduce is over before the host has seen that it is: so many follow each other, and one wait is for all.
_MOST_ROUNDS = 20
_ENOUGH_BYTES = 64 << 20
_FLOAT_BYTES = 4


def time_all_reduces(communicator: Communicator, num_bytes: int) -> list[float]:
    """Seconds of one all-reduce, by sample. Raises NcclSanityFailed where the sums are wrong, which they may be of many
    numbers though they were right of one: a broken way from device to device spoils data without a word."""
    # [num_bytes / 4], float32
    tensor = torch.full((num_bytes // _FLOAT_BYTES,), communicator.rank + 1.0, device=communicator.device)
    communicator.all_reduce(tensor)
    _check(tensor, communicator)
    tensor.zero_()  # or it would grow beyond all numbers
    rounds = max(1, min(_MOST_ROUNDS, _ENOUGH_BYTES // num_bytes))
    return [_seconds(communicator, tensor, rounds) for _ in range(NUM_SAMPLES)]


def slowest(samples: Sequence[Sequence[float]]) -> list[float]:
    """By sample, the rank that was last: only then is it over."""
    return [max(each) for each in zip(*samples, strict=True)]


def _check(tensor: Tensor, communicator: Communicator) -> None:
    ranks = communicator.world_size
    num_wrong = int((tensor != ranks * (ranks + 1) / 2).sum().item())
    if num_wrong:
        raise NcclSanityFailed(
            f"rank {communicator.rank} sees {num_wrong} of {tensor.numel()} sums over {ranks} ranks spoilt"
        )


def _seconds(communicator: Communicator, tensor: Tensor, rounds: int) -> float:
    _finish(communicator.device)
    began_s = time.perf_counter()
    for _ in range(rounds):
        communicator.all_reduce(tensor)
    _finish(communicator.device)
    return (time.perf_counter() - began_s) / rounds


def _finish(device: torch.device) -> None:
    """A GPU's all-reduce is only queued when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
