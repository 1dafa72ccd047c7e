"""Random load and random faults on simulated fleets: short runs of what `make sim` does at length."""

from __future__ import annotations

import random

import pytest
from tests.sim.traffic import Plan, drive, fleet


@pytest.mark.parametrize(
    "plan",
    [
        Plan(nodes=3, models=12, requests_per_s=8, lasts_s=120, faults=12),
        Plan(nodes=4, models=16, requests_per_s=20, lasts_s=120, faults=6),
        Plan(nodes=5, models=20, requests_per_s=8, lasts_s=120, faults=20, gateways=2),
        Plan(nodes=100, models=500, requests_per_s=30, lasts_s=20, faults=40, gateways=2),
    ],
    ids=lambda plan: f"{plan.nodes}-nodes-{plan.gateways}-gateways",
)
def test_invariants_hold_under_random_load_and_faults(plan: Plan) -> None:
    """No eviction of what is in use, loading or pinned, no lost request, no double load, and the fleet heals."""
    random.seed(0)  # the gateway's own jitter
    simulation = fleet(plan, seed=0)
    try:
        simulation.run(drive(simulation, plan))
        simulation.settle()
        sample = simulation.rng.sample(sorted(simulation.models), min(12, plan.models))
        simulation.check_all_served(simulation.gateways["g0"], sample)
        assert not simulation.witness.violations, simulation.witness.violations
        assert simulation.witness.evictions
        assert all(gateway.outcomes["ok"] for gateway in simulation.gateways.values())
    finally:
        simulation.end()
