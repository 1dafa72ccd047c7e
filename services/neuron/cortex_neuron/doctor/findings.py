"""What has been found so far, step by step, and the report that comes of it.

Owns: which step is under way, since when, and what it came to. Does not own: the steps' order (examination) or their
look (command). Called by: examination.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cortex_neuron.doctor import host, verdict
from cortex_neuron.doctor.facts import (
    AllReduce,
    DriverFacts,
    Failure,
    Outcome,
    RankDevice,
    Report,
    Step,
    StepName,
    TorchFacts,
)


class StepFailed(Exception):
    """The examination ends here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Findings:
    """`tell` is called with each step as soon as it is over."""

    def __init__(self, tell: Callable[[Step], None]) -> None:
        self.driver: DriverFacts | None = None
        self.torch: TorchFacts | None = None
        self.devices: tuple[RankDevice, ...] = ()
        self.all_reduce: list[AllReduce] = []
        self._tell = tell
        self._steps: list[Step] = []
        self._under_way: StepName = "driver"
        self._began_s = time.monotonic()

    def begin(self, step: StepName) -> None:
        """From now on this is what is waited for."""
        self._under_way, self._began_s = step, time.monotonic()

    def done(self, words: str, outcome: Outcome = "ok") -> None:
        """The step under way is over."""
        self._add(Step(step=self._under_way, outcome=outcome, words=words, seconds=self._elapsed_s()))

    def judged(self, judged: host.Judged) -> None:
        """A step that was over at once."""
        self._add(Step(step=judged.step, outcome=judged.outcome, words=judged.words))

    def failed(self, kind: str, message: str, rank: int | None) -> StepFailed:
        """The step under way has failed; what is to be raised."""
        failure = Failure(step=self._under_way, kind=kind, message=message, rank=rank)
        self.done(verdict.blamed(failure), "failed")
        return StepFailed(failure)

    def report(self, failure: Failure | None) -> Report:
        """All of it."""
        return Report(
            healthy=failure is None,
            verdict=verdict.of(self.devices, failure),
            failure=failure,
            driver=self.driver,
            devices=self.devices,
            torch=self.torch,
            all_reduce=tuple(self.all_reduce),
            steps=tuple(self._steps),
        )

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._tell(step)

    def _elapsed_s(self) -> float:
        return round(time.monotonic() - self._began_s, 3)


def all_reduce(size_mb: int, samples_s: Sequence[float], num_ranks: int) -> AllReduce:
    """What the times come to; the figures are those of NVIDIA's nccl-tests."""
    median_s = sorted(samples_s)[len(samples_s) // 2]
    algorithm_gb_s = size_mb * 2**20 / median_s / 1e9
    return AllReduce(
        size_mb=size_mb,
        num_samples=len(samples_s),
        median_ms=round(median_s * 1000, 4),
        algorithm_gb_s=round(algorithm_gb_s, 3),
        bus_gb_s=round(algorithm_gb_s * 2 * (num_ranks - 1) / num_ranks, 3),
    )
