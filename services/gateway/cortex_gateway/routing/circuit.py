"""Whether a model on a neuron is sent requests: a circuit breaker per (neuron, model).

Owns: the states, what failures and successes of real requests make of them, and when an open one is tried again. Pure:
the time is passed in. Does not own: what counts as a failure (forwarding), whether a neuron answers polls (fleet).
Called by: decide.py, explain.py (read), forwarding/attempts.py (tells), records/metrics.py, api (show).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from cortex_gateway.fleet.outstanding import Seat

OPENS_AFTER = 5  # failures in a row: more than one bad request, tried on every replica, comes to
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_PROBE_S = 10.0  # after that another probe may go: the one before may be a long answer


class Circuit(StrEnum):
    """Transitions: NEXT."""

    CLOSED = "closed"
    OPEN = "open"  # gets nothing until its pause is over
    HALF_OPEN = "half_open"  # one request has been let through


class _Event(StrEnum):
    """What can happen to a Circuit."""

    SUCCESS = "success"
    FAILURE = "failure"
    LAST_FAILURE = "last_failure"  # that of OPENS_AFTER in a row
    PROBE = "probe"  # a request is let through
    NO_VERDICT = "no_verdict"  # its client left, or the neuron was merely busy


NEXT = {
    (Circuit.CLOSED, _Event.SUCCESS): Circuit.CLOSED,
    (Circuit.CLOSED, _Event.FAILURE): Circuit.CLOSED,
    (Circuit.CLOSED, _Event.LAST_FAILURE): Circuit.OPEN,
    (Circuit.OPEN, _Event.PROBE): Circuit.HALF_OPEN,
    (Circuit.OPEN, _Event.LAST_FAILURE): Circuit.OPEN,  # of a request that had begun before
    (Circuit.OPEN, _Event.SUCCESS): Circuit.CLOSED,
    (Circuit.HALF_OPEN, _Event.PROBE): Circuit.HALF_OPEN,
    (Circuit.HALF_OPEN, _Event.LAST_FAILURE): Circuit.OPEN,
    (Circuit.HALF_OPEN, _Event.NO_VERDICT): Circuit.OPEN,
    (Circuit.HALF_OPEN, _Event.SUCCESS): Circuit.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Breaker:
    """One that is not closed without a blemish. `retry_at` is when a request may go there."""

    circuit: Circuit = Circuit.CLOSED
    failures: int = 0  # in a row
    openings: int = 0  # in a row, without a success between them
    retry_at: float = 0.0


_FLAWLESS = Breaker()


def failed(breaker: Breaker, now: float) -> Breaker:
    """After one more failure."""
    failures = breaker.failures + 1
    event = _Event.LAST_FAILURE if failures >= OPENS_AFTER else _Event.FAILURE
    circuit = NEXT[breaker.circuit, event]
    if circuit is not Circuit.OPEN or breaker.circuit is Circuit.OPEN:
        return replace(breaker, circuit=circuit, failures=failures)
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**breaker.openings)
    return Breaker(circuit, failures, breaker.openings + 1, now + pause_s)


def probed(breaker: Breaker, now: float) -> Breaker:
    """After a request has been let through."""
    return replace(breaker, circuit=NEXT[breaker.circuit, _Event.PROBE], retry_at=now + _PROBE_S)


def without_verdict(breaker: Breaker, now: float) -> Breaker:
    """After a probe that proved nothing: the next may go at once."""
    return replace(breaker, circuit=NEXT[breaker.circuit, _Event.NO_VERDICT], retry_at=now)


class Circuits:
    """Every breaker that is not flawless; times are of one monotonic clock."""

    def __init__(self) -> None:
        self._breakers: dict[Seat, Breaker] = {}

    def state(self, neuron: str, model_id: str) -> Circuit:
        """The circuit, to be shown."""
        return self._breakers.get((neuron, model_id), _FLAWLESS).circuit

    def not_closed(self) -> Iterator[tuple[Seat, Circuit]]:
        """Those that are open or half open."""
        return ((seat, each.circuit) for seat, each in self._breakers.items() if each.circuit is not Circuit.CLOSED)

    def retry_at(self, neuron: str, model_id: str) -> float:
        """When a request may go there: 0 is always."""
        if not self._breakers:
            return 0.0
        breaker = self._breakers.get((neuron, model_id), _FLAWLESS)
        return 0.0 if breaker.circuit is Circuit.CLOSED else breaker.retry_at

    def sent(self, seat: Seat, now: float) -> None:
        """A request goes there."""
        breaker = self._breakers.get(seat)
        if breaker is not None and breaker.circuit is not Circuit.CLOSED:
            self._breakers[seat] = probed(breaker, now)

    def succeeded(self, seat: Seat) -> None:
        """An answer was whole: by NEXT that closes any circuit, and one without a blemish is not kept."""
        self._breakers.pop(seat, None)

    def failed(self, seat: Seat, now: float) -> None:
        """An answer was none, or broke."""
        self._breakers[seat] = failed(self._breakers.get(seat, _FLAWLESS), now)

    def unsettled(self, seat: Seat, now: float) -> None:
        """A request is over that says neither."""
        breaker = self._breakers.get(seat)
        if breaker is not None and breaker.circuit is Circuit.HALF_OPEN:
            self._breakers[seat] = without_verdict(breaker, now)

    def keep(self, neurons: Collection[str], models: Collection[str]) -> None:
        """Forget all others."""
        self._breakers = {
            seat: breaker for seat, breaker in self._breakers.items() if seat[0] in neurons and seat[1] in models
        }
