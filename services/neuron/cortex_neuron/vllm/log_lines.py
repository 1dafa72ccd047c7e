"""What a vLLM server writes: lines of bounded length and number, how far its start is, and why it failed. Pure.

Called by: process.py, server.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cortex_contracts.wire.neuron import Progress

_LONGEST = 1000  # characters of a line
_LINES_PER_S = 20
_END = re.compile(rb"[\r\n]+")  # a progress bar is one line again and again
_FAULT = re.compile(r"\b(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception)): .*")
# It says these when something else has failed that it has told before.
_LATER = ("Engine core initialization failed", "WorkerProc initialization failed")
_SHARDS = re.compile(r"Loading \w+ checkpoint shards:\s+(\d+)%")
_PHASES = (
    (re.compile(r"Starting to load model|Loading weights|Loading model"), "weights", 0.1),
    (re.compile(r"Warming up|torch\.compile|Dynamo|Profiling|KV cache|kv cache"), "warm_up", 0.6),
    (re.compile(r"[Cc]apturing|Graph capturing"), "graphs", 0.8),
    (re.compile(r"Starting vLLM|Application startup complete"), "serving", 0.95),
)


class Lines:
    """Bytes as they come, cut into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are whole now, each as long as a line may be."""
        *whole, self._rest = _END.split(self._rest + data)
        self._rest = self._rest[: _LONGEST * 4]
        return [line.decode(errors="replace")[:_LONGEST] for line in whole if line.strip()]


class Allowance:
    """How many lines may go into the neuron's log: so many a second; those left out are counted."""

    def __init__(self) -> None:
        self._second = -1
        self._num_taken = 0
        self.num_left_out = 0

    def takes(self, now: float) -> bool:
        """Whether one more goes in. `now` is of any clock in seconds."""
        if int(now) != self._second:
            self._second, self._num_taken = int(now), 0
        self._num_taken += 1
        taken = self._num_taken <= _LINES_PER_S
        self.num_left_out += not taken
        return taken


def progress_of(line: str) -> Progress | None:
    """How far the start is, where a line tells."""
    if shards := _SHARDS.search(line):
        return Progress(phase="weights", fraction=round(0.1 + 0.5 * int(shards[1]) / 100, 3))
    for pattern, phase, fraction in _PHASES:
        if pattern.search(line):
            return Progress(phase=phase, fraction=fraction)
    return None


def cause(lines: Sequence[str]) -> str:
    """The first fault that was told; empty where none was."""
    faults = (found[0] for line in lines if (found := _FAULT.search(line)) and not any(map(line.__contains__, _LATER)))
    return next(faults, "")
