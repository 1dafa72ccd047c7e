"""What the workers of one gateway share: a few numbers in memory, and the pages that each lays out for the others.

Owns: the memory, made before the workers are forked so that all have it, and the folder. Does not own: what is counted
or laid out. A gateway of one process has the same, with nobody to share it with. Called by: supervisor.py (makes it),
gateway.py and what it puts together (read and write their own part).
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from pathlib import Path

from cortex_gateway.admission.ledger import Ledger

_DRAINING = 0  # the numbers: whether the gateway is drained, then two of each worker
_FIRST_COLUMN = 1
_IN_FLIGHT, _READY, _COLUMN = 0, 1, 2  # requests under way, whether it can serve, and how many numbers that are
_NUMBER_BYTES = 8


class Workers:
    """The workers of one gateway, `count` of them; `folder` holds their pages, and is None for one alone."""

    def __init__(self, count: int = 1, folder: Path | None = None) -> None:
        self.count, self.folder = count, folder
        self.started = time.monotonic()
        self._numbers = memoryview(mmap.mmap(-1, (_FIRST_COLUMN + count * _COLUMN) * _NUMBER_BYTES)).cast("q")
        self.ledger = mmap.mmap(-1, Ledger.size(count))

    @property
    def draining(self) -> bool:
        """Whether an operator has drained the gateway: every worker sees it at once, and so does one that is new."""
        return bool(self._numbers[_DRAINING])

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._numbers[_DRAINING] = draining

    @property
    def in_flight(self) -> int:
        """Requests under way in all workers."""
        return sum(self._numbers[_FIRST_COLUMN + _IN_FLIGHT :: _COLUMN])

    @property
    def all_ready(self) -> bool:
        """Whether each worker can serve: none of them accepts before, so that a gateway which cannot take another's
        place has taken none of its connections."""
        return all(self._numbers[_FIRST_COLUMN + _READY :: _COLUMN])

    def seat(self, number: int) -> Worker:
        """One worker's own part of it, empty: whoever sat there before is dead."""
        worker = Worker(self, number)
        worker.in_flight = 0
        worker.ready = False
        worker.ledger.clear()
        return worker


class Worker:
    """The part of worker `number`, which nobody else writes."""

    def __init__(self, all_of_them: Workers, number: int) -> None:
        self.all, self.number = all_of_them, number
        self._column = all_of_them._numbers[_FIRST_COLUMN + number * _COLUMN :]
        self.ledger = Ledger(all_of_them.ledger, all_of_them.count, number)

    @property
    def in_flight(self) -> int:
        """Requests under way in this worker."""
        return self._column[_IN_FLIGHT]

    @in_flight.setter
    def in_flight(self, number: int) -> None:
        self._column[_IN_FLIGHT] = number

    @property
    def ready(self) -> bool:
        """Whether this worker has started and can serve."""
        return bool(self._column[_READY])

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._column[_READY] = ready

    def lay_out(self, name: str, page: bytes) -> None:
        """Give the others a page of this name, in place of the last one. Whoever reads sees the one or the other."""
        if self.all.folder is not None:
            written = self.all.folder / f"{name}.{self.number}.new"
            written.write_bytes(page)
            os.replace(written, self._page(name, self.number))

    def own(self, name: str) -> bytes:
        """The page that this worker, or the one that sat here before, laid out last; empty where there is none."""
        return self._read(name, self.number)

    def others(self, name: str) -> list[bytes]:
        """The pages that the others have laid out."""
        numbers = [number for number in range(self.all.count) if number != self.number]
        return [page for number in numbers if (page := self._read(name, number))]

    def _read(self, name: str, number: int) -> bytes:
        with suppress(FileNotFoundError):
            if self.all.folder is not None:
                return self._page(name, number).read_bytes()
        return b""

    def _page(self, name: str, number: int) -> Path:
        assert self.all.folder is not None, "asked"
        return self.all.folder / f"{name}.{number}"
