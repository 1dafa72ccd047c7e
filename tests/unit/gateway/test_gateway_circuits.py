"""Circuits per (neuron, model), with the time passed in."""

from __future__ import annotations

import pytest

from cortex_gateway.routing.circuit import OPENS_AFTER, Breaker, Circuit, Circuits, failed, probed, without_verdict

SEAT = ("one", "m")


def opened(circuits: Circuits, now: float = 0.0) -> Circuits:
    for _ in range(OPENS_AFTER):
        circuits.failed(SEAT, now)
    return circuits


def test_so_many_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    """A neuron that fails now and then is still the best there is."""
    circuits = Circuits()
    for _ in range(OPENS_AFTER - 1):
        circuits.failed(SEAT, 0.0)
    circuits.succeeded(SEAT)
    for _ in range(OPENS_AFTER - 1):
        circuits.failed(SEAT, 0.0)
    assert (circuits.state(*SEAT), circuits.retry_at(*SEAT)) == (Circuit.CLOSED, 0.0)
    circuits.failed(SEAT, 0.0)
    assert circuits.state(*SEAT) is Circuit.OPEN
    assert list(circuits.not_closed()) == [(SEAT, Circuit.OPEN)]
    assert circuits.state("one", "other") is Circuit.CLOSED


def test_one_request_is_let_through_after_the_pause_and_its_success_closes_it() -> None:
    """No second one while the first is under way."""
    circuits = opened(Circuits())
    due = circuits.retry_at(*SEAT)
    assert due > 0
    circuits.sent(SEAT, due)
    assert circuits.state(*SEAT) is Circuit.HALF_OPEN
    assert circuits.retry_at(*SEAT) > due
    circuits.succeeded(SEAT)
    assert (circuits.state(*SEAT), circuits.retry_at(*SEAT)) == (Circuit.CLOSED, 0.0)
    assert not list(circuits.not_closed())


def test_the_pause_grows_with_each_probe_that_fails_up_to_a_bound() -> None:
    """1, 2, 4 … 30 s."""
    circuits, pauses, now = opened(Circuits()), [], 0.0
    for _ in range(8):
        pauses.append(circuits.retry_at(*SEAT) - now)
        now = circuits.retry_at(*SEAT)
        circuits.sent(SEAT, now)
        circuits.failed(SEAT, now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_probe_that_proves_nothing_makes_room_for_the_next_at_once() -> None:
    """Its client left, or the neuron was merely busy: neither is a failure, nor a reason to wait."""
    circuits = opened(Circuits())
    due = circuits.retry_at(*SEAT)
    circuits.sent(SEAT, due)
    circuits.unsettled(SEAT, due + 0.5)
    assert (circuits.state(*SEAT), circuits.retry_at(*SEAT)) == (Circuit.OPEN, due + 0.5)


def test_a_probe_that_takes_long_does_not_shut_everybody_out() -> None:
    """A long answer is no failure: after a while another probe may go."""
    circuits = opened(Circuits())
    circuits.sent(SEAT, 5.0)
    again = circuits.retry_at(*SEAT)
    assert 5.0 < again < 60.0
    circuits.sent(SEAT, again)
    assert circuits.state(*SEAT) is Circuit.HALF_OPEN


def test_failures_of_requests_that_had_begun_before_do_not_lengthen_the_pause() -> None:
    """Fifty streams that break with one neuron are one event."""
    circuits = opened(Circuits())
    due = circuits.retry_at(*SEAT)
    for _ in range(50):
        circuits.failed(SEAT, 0.9)
    assert circuits.retry_at(*SEAT) == due


def test_a_closed_circuit_has_no_probe_and_no_verdict_to_take_back() -> None:
    """Such a move is a bug, and says so."""
    for move in (probed, without_verdict):
        with pytest.raises(KeyError):
            move(Breaker(), 0.0)


def test_requests_without_a_verdict_change_nothing_while_it_is_closed() -> None:
    circuits = Circuits()
    circuits.sent(SEAT, 0.0)
    circuits.unsettled(SEAT, 0.0)
    assert circuits.state(*SEAT) is Circuit.CLOSED
    breaker = failed(Breaker(), 0.0)
    assert (breaker.circuit, breaker.failures) == (Circuit.CLOSED, 1)


def test_what_left_the_configuration_is_forgotten() -> None:
    circuits = opened(Circuits())
    circuits.keep({"one"}, {"m"})
    assert list(circuits.not_closed())
    circuits.keep({"one"}, {"other"})
    assert not list(circuits.not_closed())
