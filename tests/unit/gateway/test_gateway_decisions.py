"""The rings of the last decisions, and the gate."""

from __future__ import annotations

import pytest

from cortex_contracts.wire.errors import Draining, NoCapacity, ShuttingDown
from cortex_dialects.dialect import Dialect
from cortex_gateway.admission.gate import NEXT, Admission, Gate
from cortex_gateway.exchange import Exchange
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import NeuronView
from cortex_gateway.processes.workers import Workers
from cortex_gateway.records.decisions import KEPT, Decisions
from cortex_gateway.routing.decision import Forward, Load, Reject, WaitForLoad

NEURON = NeuronView(name="one", url="http://one")


def exchange() -> Exchange:
    return Exchange("r", Dialect.OPENAI, "/v1/chat/completions", Outstanding())


def test_forwards_wash_out_no_load_and_neither_ring_grows_without_bound() -> None:
    """A busy day of forwards leaves the one load of the morning to be read."""
    decisions = Decisions()
    decisions.record("early", "m", Load(NEURON, (0,), ("victim",)))
    for number in range(3 * KEPT):
        decisions.record(f"f{number}", "m", Forward(NEURON))
    rows = decisions.last(10 * KEPT)
    assert len(rows) == KEPT + 1
    assert (rows[0].request_id, rows[-1].request_id, rows[-1].evict) == (f"f{3 * KEPT - 1}", "early", ["victim"])
    for number in range(3 * KEPT):
        decisions.record(f"w{number}", "m", WaitForLoad(NEURON))
    assert len(decisions.last(10 * KEPT)) == 2 * KEPT


def test_a_failover_says_what_it_came_after_and_is_kept_among_the_rare_ones() -> None:
    """Why another replica was asked is worth more than that one was."""
    decisions = Decisions()
    decisions.record("r", "m", Forward(NEURON), after="two said 503")
    for _ in range(2 * KEPT):
        decisions.record("f", "m", Forward(NEURON))
    (oldest,) = decisions.last(10 * KEPT)[-1:]
    assert (oldest.request_id, oldest.decision) == ("r", "forward")
    assert oldest.reason.startswith("two said 503; ")


def test_a_model_that_is_loaded_anew_evicts_nobody_and_is_no_requests() -> None:
    """A round of recycling is told from a load that somebody waits for."""
    decisions = Decisions()
    decisions.record("", "m", Load(NEURON, (0,), ("m",)))
    (row,) = decisions.last(1)
    assert (row.request_id, row.decision, row.neuron, row.evict) == ("", "load", "one", [])
    assert row.reason == "it is loaded anew after many evictions there"


def test_rows_are_of_one_model_where_it_is_named_and_no_more_than_asked_for() -> None:
    """The limit is of what is asked for, not of what is looked through."""
    decisions = Decisions()
    for number in range(9):
        decisions.record(f"{number}", "m" if number % 3 else "n", Reject(NoCapacity("nowhere")))
    assert [row.request_id for row in decisions.last(2, "n")] == ["6", "3"]
    assert [row.reason for row in decisions.last(1)] == ["nowhere"]


def test_the_gate_of_all_workers_drains_together_and_a_closed_one_stays_closed() -> None:
    """An operator's word reaches every worker; who shuts down takes no other (L8)."""
    workers = Workers(2)
    first, second = (Admission(workers.seat(number)) for number in range(2))
    first.enter(exchange())
    second.drain()
    assert (first.gate, second.gate) == (Gate.DRAINING, Gate.DRAINING)
    with pytest.raises(Draining):
        first.enter(exchange())
    assert first.in_flight == 1
    first.undrain()
    second.enter(exchange())


async def test_a_closed_gate_takes_no_order() -> None:
    """The table says so, and the words are those of a shutdown."""
    admission = Admission(Workers().seat(0))
    await admission.close(0.0)
    assert NEXT[Gate.CLOSED] == set()
    for order in (admission.drain, admission.undrain):
        with pytest.raises(ShuttingDown):
            order()
    assert admission.gate is Gate.CLOSED
