"""Simulated fleets: `python -m tests.sim [--nodes N --models M] [--seed S] [--json FILE]`.

Real gateways on simulated neurons under random load and faults. Prints what happened, what was checked, and what a
routing decision costs. Exits with 1 where an invariant was violated.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.sim.decision_cost import Costs, measured, summary
from tests.sim.simulation import Simulation
from tests.sim.traffic import Plan, drive, fleet

_PLANS = (
    Plan(nodes=3, models=12, requests_per_s=10, lasts_s=900, faults=100, gateways=2),
    Plan(nodes=100, models=500, requests_per_s=50, lasts_s=90, faults=100, gateways=2),
    Plan(nodes=1000, models=5000, requests_per_s=150, lasts_s=40, faults=200, poll_interval_s=2.0),
)
_SERVED_AGAIN = 50  # models that are asked for at the end


def main() -> int:
    """Run the fleets; print as they end."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--nodes", type=int, help="one fleet of so many nodes")
    parser.add_argument("--models", type=int, help="models of that fleet; 5 for each node where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    plans = [_of_size(arguments.nodes, arguments.models)] if arguments.nodes else _PLANS
    results = [_run(plan, arguments.seed) for plan in plans]
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["violations"] for result in results))


def _of_size(nodes: int, models: int | None) -> Plan:
    like = next((plan for plan in reversed(_PLANS) if nodes >= plan.nodes), _PLANS[0])
    return Plan(
        nodes, models or 5 * nodes, like.requests_per_s, like.lasts_s, like.faults, like.gateways, like.poll_interval_s
    )


def _run(plan: Plan, seed: int) -> dict[str, Any]:
    random.seed(seed)  # the gateway's own jitter
    began = time.perf_counter()
    title = f"{plan.nodes} nodes, {plan.models} models, {plan.gateways} gateway{'s' if plan.gateways > 1 else ''}"
    simulation = fleet(plan, seed)
    try:
        with measured() as costs:
            simulation.run(drive(simulation, plan, lambda share: _tell(f"{title}: {share:.0%}")))
        _tell(f"{title}: faults are over")
        simulation.settle()
        names = sorted(simulation.models)
        sample = simulation.rng.sample(names, min(_SERVED_AGAIN, len(names)))
        simulation.check_all_served(next(iter(simulation.gateways.values())), sample)
        result = {"fleet": title, "seed": seed, **_figures(simulation, costs), "took_s": time.perf_counter() - began}
    finally:
        simulation.end()
    _tell("")
    _show(result, list(simulation.witness.violations))
    return result


def _figures(simulation: Simulation, costs: Costs) -> dict[str, Any]:
    witness = simulation.witness
    outcomes: Counter[str] = sum((gateway.outcomes for gateway in simulation.gateways.values()), Counter())
    return {
        "simulated_s": simulation.loop.time(),
        "requests": sum(outcomes.values()),
        "answers": dict(outcomes.most_common()),
        "loads": witness.loads,
        "evictions": witness.evictions,
        "checks": dict(sorted(witness.checks.items())),
        "violations": witness.num_violations,
        "decision_us": {kind: summary(each) for kind, each in [*sorted(costs.items()), ("any", _all(costs))] if each},
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _all(costs: Costs) -> list[int]:
    return [cost for each in costs.values() for cost in each]


def _show(result: dict[str, Any], violations: list[str]) -> None:
    print(f"{result['fleet']}, {result['simulated_s']:.0f} s simulated in {result['took_s']:.0f} s")
    answers = ", ".join(f"{count} {outcome}" for outcome, count in result["answers"].items())
    print(f"  requests    {result['requests']}: {answers}")
    print(f"  loads       {result['loads']}, evictions {result['evictions']}")
    print(f"  memory      {result['rss_mb']:.0f} MB at most so far, neurons and all")
    for kind, cost in result["decision_us"].items():
        times = ", ".join(f"{name} {cost[name]:6.1f}" for name in ("mean", "p50", "p99"))
        print(f"  decide      {kind:12} {cost['count']:7} times, us: {times}")
    print(f"  checks      {sum(result['checks'].values())} of {len(result['checks'])} invariants")
    print(f"  violations  {result['violations']}", flush=True)
    for line in violations:
        print(f"    {line}")


def _tell(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)
    elif progress:
        print(progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
