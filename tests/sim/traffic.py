"""Random load on a simulated fleet, with random faults under it.

Owns: the fleets (a mix of hosts, of models and of their popularity) and the rhythm of requests. Called by: __main__.py,
test_sim_fleets.py.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.sim import faults
from tests.sim.neuron import Host
from tests.sim.simulation import Simulation

from cortex_contracts.inventory.fleet import GatewaySettings, Model
from cortex_contracts.wire.errors import NoCapacity

_DEVICES_MB = ((12000,), (24000,), (24000, 24000), (32000, 32000), (80000, 80000))
_SLEEP_MB = (0, 20000, 60000)
_MODELS_MB = (3000, 5000, 9000, 10000, 16000, 22000)
_STREAMED = 0.4
_IMPATIENT = 0.05
_TRIED = 60  # models that a host is offered before the load begins


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    nodes: int
    models: int
    requests_per_s: float
    lasts_s: float
    faults: int
    gateways: int = 1
    poll_interval_s: float = 1.0


def fleet(plan: Plan, seed: int) -> Simulation:
    """The fleet of a plan, and its gateways."""
    rng = random.Random(seed)
    hosts = [
        Host(f"n{number:04}", _DEVICES_MB[number % len(_DEVICES_MB)], sleep_mb=_SLEEP_MB[number // 2 % len(_SLEEP_MB)])
        for number in range(plan.nodes)
    ]
    models = [_model(number, rng, hosts) for number in range(plan.models)]
    simulation = Simulation(hosts, models, seed)
    simulation.call(lambda: _furnish(simulation))
    settings = GatewaySettings(
        cold_load_timeout_s=60.0, poll_interval_s=plan.poll_interval_s, drain_timeout_s=5.0, idle_timeout_s=20.0
    )
    for number in range(plan.gateways):
        simulation.add_gateway(f"g{number}", settings, "priority" if number % 2 else "lru", defrag=5)
    return simulation


def _furnish(simulation: Simulation) -> None:
    """Fill the hosts as they would be after a while, so that there is something to evict."""
    names = list(simulation.models)
    for neuron in simulation.neurons.values():
        for model_id in simulation.rng.sample(names, min(_TRIED, len(names))):
            with suppress(NoCapacity):
                neuron.furnish(model_id)


def _model(number: int, rng: random.Random, hosts: list[Host]) -> Model:
    roomy = [host for host in hosts if len(host.devices_mb) > 1]
    spans = number % 20 == 7 and bool(roomy)
    return Model(
        id=f"m{number:04}",
        source="-",
        vram_mb=rng.choice(_MODELS_MB) if not spans else 16000,
        tensor_parallel=2 if spans else 1,
        priority=number % 3,
        preload_on=(rng.choice(hosts).name,) if number % 50 == 3 else (),
        pinned_on=(rng.choice(hosts).name,) if number % 100 == 3 else (),
    )


async def drive(simulation: Simulation, plan: Plan, tell: Callable[[float], None] = lambda share: None) -> None:
    """Requests at random moments for models of unlike popularity, while faults begin and end."""
    rng, gateways = simulation.rng, list(simulation.gateways.values())
    names = list(simulation.models)
    rng.shuffle(names)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(names) + 1)))
    loop = asyncio.get_running_loop()
    began = told = loop.time()
    misfortune = asyncio.create_task(faults.happen(simulation, plan.faults, plan.lasts_s))
    while (passed_s := loop.time() - began) < plan.lasts_s:
        (model_id,) = rng.choices(names, cum_weights=weights)
        patience_s = rng.uniform(0.01, 5) if rng.random() < _IMPATIENT else None
        simulation.ask(
            rng.choice(gateways), model_id, stream=rng.random() < _STREAMED, max_tokens=rng.randint(1, 12),
            patience_s=patience_s,
        )  # fmt: skip
        if loop.time() - told >= plan.lasts_s / 20:
            told = loop.time()
            tell(passed_s / plan.lasts_s)
        await asyncio.sleep(rng.expovariate(plan.requests_per_s))
    await misfortune
