"""The last decisions that were taken, for operators to read.

Owns: two bounded rings, so that forwards, of which there are many, do not wash out loads and refusals. Recording is on
the path of every request: it appends a tuple, and rows are made of those when somebody reads. Does not own: the
decisions (routing). Called by: forwarding/attempts.py, operations.py, recycler.py (record), api/fleet.py (reads).
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from cortex_contracts.wire.fleet import DecisionRow
from cortex_gateway.routing.decision import Decision, Described, Forward, described

KEPT = 1000  # of each ring

_Taken = tuple[float, str, str, str, Described]  # when, in seconds since 1970; request id; model id; after what


class Decisions:
    """The rings."""

    def __init__(self) -> None:
        self._forwards: deque[_Taken] = deque(maxlen=KEPT)
        self._others: deque[_Taken] = deque(maxlen=KEPT)

    def record(self, request_id: str, model_id: str, decision: Decision, after: str = "") -> None:
        """A decision has been taken, for a request or, with an empty id, for none. `after` says what went wrong before,
        where it is not the first for its request."""
        ring = self._forwards if isinstance(decision, Forward) and not after else self._others
        ring.append((time.time(), request_id, model_id, after, described(decision, model_id)))

    def page(self) -> bytes:
        """All of them, for the other workers of this gateway."""
        return msgspec.json.encode([*self._forwards, *self._others])

    def last(self, limit: int, model_id: str | None = None, siblings: Iterable[bytes] = ()) -> list[DecisionRow]:
        """Up to `limit` rows, newest first, with those of the other workers' pages; of one model where it is named."""
        rings: list[Iterable[_Taken]] = [reversed(self._forwards), reversed(self._others)]
        rings += [sorted(msgspec.json.decode(page, type=list[_Taken]), key=_when, reverse=True) for page in siblings]
        newest_first = heapq.merge(*rings, key=_when, reverse=True)
        wanted = (taken for taken in newest_first if model_id is None or taken[2] == model_id)
        return [_row(taken) for taken in itertools.islice(wanted, limit)]


def _when(taken: _Taken) -> float:
    return taken[0]


def _row(taken: _Taken) -> DecisionRow:
    at, request_id, model_id, after, (kind, neuron, devices, evict, reason) = taken
    return DecisionRow(
        decided_at=datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds"),
        request_id=request_id,
        model=model_id,
        decision=kind,
        neuron=neuron,
        devices=list(devices) if devices is not None else None,
        evict=list(evict),
        reason=f"{after}; {reason}" if after else reason,
    )
