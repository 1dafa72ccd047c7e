"""How long each part of a load took, by what is told of it while it goes on.

Owns: the times. Called by: residency, for one load.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cortex_contracts.wire.neuron import Progress

START = "start"  # until the first word: processes, and ranks that say hello


class Phases:
    """`tell` is told of each progress."""

    def __init__(self, tell: Callable[[Progress], None], now: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._now = tell, now
        self._began = now()
        self._marks = [(START, self._began)]

    def told(self, progress: Progress) -> None:
        """So far it is."""
        if progress.phase != self._marks[-1][0]:
            self._marks.append((progress.phase, self._now()))
        self._tell(progress)

    def ended(self) -> tuple[float, dict[str, float]]:
        """Seconds in all, and of each phase until the next began: the last has what came after the last word."""
        now = self._now()
        ends = [*(at for _, at in self._marks[1:]), now]
        took: dict[str, float] = {}
        for (phase, at), end in zip(self._marks, ends, strict=True):
            took[phase] = round(took.get(phase, 0.0) + end - at, 3)
        return now - self._began, took
