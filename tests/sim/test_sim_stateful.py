"""A small fleet, real gateways on simulated neurons, and whatever hypothesis does to them.

`SIM_EXAMPLES` and `SIM_STEPS` make it search deeper than CI has time for; with `SIM_FAST` what it finds is not shrunk.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.sim import faults
from tests.sim.faults import Fault
from tests.sim.neuron import Host
from tests.sim.simulation import SETTINGS, Simulation

from cortex_contracts.inventory.fleet import EvictionStrategy, Model

HOSTS = (
    Host("n0", sleep_mb=30000),
    Host("n1", (24000, 16000)),
    Host("n2", (12000, 12000), sleep_mb=12000),
    Host("n3"),
    Host("n4", (10000,)),
    Host("n5", (48000,), kind="cpu", sleep_mb=16000),
)


def _model(name: str, vram_mb: int, **fields: Any) -> Model:
    return Model(id=name, source="-", vram_mb=vram_mb, **fields)


MODELS = (
    _model("m0", 9000),
    _model("m1", 9000, priority=1),
    _model("m2", 14000, priority=2),
    _model("m3", 20000, preload_on=("n1",)),
    _model("m4", 16000, tensor_parallel=2),
    _model("m5", 4000, pinned_on=("n0",), preload_on=("n0",)),
    _model("m6", 22000, priority=1),
)
IMPATIENCE_S = st.none() | st.floats(0.001, 10)


class FleetMachine(RuleBasedStateMachine):
    """Requests, time, faults, drains, pins, reloads and a second gateway, in any order."""

    simulation: Simulation | None = None

    @initialize(count=st.integers(3, 6), strategy=st.sampled_from(["lru", "priority"]), seed=st.integers(0, 99))
    def begin(self, count: int, strategy: EvictionStrategy, seed: int) -> None:
        self.simulation = Simulation(HOSTS[:count], MODELS, seed)
        self.strategy = strategy
        self.simulation.add_gateway("a", strategy=strategy, defrag=3)

    @property
    def fleet(self) -> Simulation:
        assert self.simulation is not None
        return self.simulation

    @rule(
        model=st.sampled_from([model.id for model in MODELS]),
        count=st.sampled_from([1, 1, 1, 3, 20]),
        stream=st.booleans(),
        patience_s=IMPATIENCE_S,
        last=st.booleans(),
    )
    def ask(self, model: str, count: int, stream: bool, patience_s: float | None, last: bool) -> None:
        """Of the first gateway or the last."""
        gateway = list(self.fleet.gateways.values())[-1 if last else 0]
        for _ in range(count):
            self.fleet.ask(gateway, model, stream=stream, patience_s=patience_s)

    @rule(seconds=st.sampled_from([0.003, 0.1, 1.0, 3.0, 10.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.fleet.pass_time(seconds)

    @rule(fault=st.sampled_from(Fault), number=st.integers(0, 5))
    def inflict(self, fault: Fault, number: int) -> None:
        neurons = list(self.fleet.neurons.values())
        self.fleet.call(lambda: faults.inflict(fault, neurons[number % len(neurons)]))

    @rule(fault=st.sampled_from(Fault), number=st.integers(0, 5))
    def end_fault(self, fault: Fault, number: int) -> None:
        neurons = list(self.fleet.neurons.values())
        self.fleet.call(lambda: faults.end(fault, neurons[number % len(neurons)]))

    @precondition(lambda self: "b" not in self.simulation.gateways)
    @rule()
    def add_gateway(self) -> None:
        self.fleet.add_gateway("b", strategy=self.strategy)

    @rule(gone=st.sets(st.sampled_from(["n0", "n1", "m0", "m1", "m2"]), max_size=2))
    def reload(self, gone: set[str]) -> None:
        gateway = self.fleet.gateways["a"]
        eviction = gateway.config.settings.eviction
        self.fleet.run(gateway.reload(self.fleet.config(SETTINGS, eviction, frozenset(gone))))

    @invariant()
    def nothing_is_violated(self) -> None:
        if self.simulation is not None:
            assert not self.simulation.witness.violations, self.simulation.witness.violations

    def teardown(self) -> None:
        if self.simulation is None:
            return
        try:
            self.reload(set())
            self.fleet.settle()
            for gateway in self.fleet.gateways.values():
                # Under `priority` the low ones may find no room among the high ones.
                self.fleet.check_all_served(gateway, self.fleet.models if self.strategy == "lru" else ["m2"])
            self.fleet.settle()
            self.nothing_is_violated()
        finally:
            self.fleet.end()


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(
    max_examples=int(os.environ.get("SIM_EXAMPLES", "40")),
    stateful_step_count=int(os.environ.get("SIM_STEPS", "25")),
    deadline=None,
    derandomize="SIM_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.generate,) if os.environ.get("SIM_FAST") else tuple(Phase),
)
