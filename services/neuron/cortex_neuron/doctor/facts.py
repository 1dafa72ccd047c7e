"""What an examination finds: the shapes of the probes' answers and of the document that --json prints.

Owns: names and units. Called by: the rest of this package.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Outcome = Literal["ok", "failed", "skipped"]
StepName = Literal["driver", "devices", "torch", "ranks", "handshake", "sanity", "all-reduce"]


class Fact(BaseModel):
    """What all of them are."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Fact):
    """As the driver names and counts it."""

    index: int
    name: str
    free_mb: int


class DriverFacts(Fact):
    """`problem` is why some or all GPUs cannot be used now."""

    present: bool
    version: str | None = None
    cuda_version: str | None = None
    problem: str | None = None
    gpus: tuple[Gpu, ...] = ()


class TorchFacts(Fact):
    """None: this build has no such thing. `problem` is why it cannot be imported, or what it says of the devices."""

    version: str | None = None
    cuda_version: str | None = None
    nccl_version: str | None = None
    num_devices: int = 0
    problem: str | None = None


class RankDevice(Fact):
    """The device of one rank. None: the driver does not say."""

    rank: int
    device: str  # "cpu" | "cuda:0"
    name: str | None = None
    free_mb: int | None = None


class Step(Fact):
    """One step, once it is over."""

    step: StepName
    outcome: Outcome
    words: str
    seconds: float | None = None  # None: nobody waited for it


class AllReduce(Fact):
    """Of `num_samples`, the one in the middle; 1 MB is 2**20 bytes, 1 GB/s is 10**9 bytes a second."""

    size_mb: int
    num_samples: int
    median_ms: float
    algorithm_gb_s: float  # bytes that a rank puts in, by time
    bus_gb_s: float  # bytes that each device's link carries one way, by time: 2(n-1)/n of the above


class Failure(Fact):
    """Why it is not healthy. Kinds are those of docs/protocol.md; `rank` is None where no rank had to be asked."""

    step: StepName
    kind: str
    message: str
    rank: int | None = None


class Report(Fact):
    """Everything that was found."""

    healthy: bool
    verdict: str
    failure: Failure | None
    driver: DriverFacts | None
    devices: tuple[RankDevice, ...]
    torch: TorchFacts | None
    all_reduce: tuple[AllReduce, ...]
    steps: tuple[Step, ...]
