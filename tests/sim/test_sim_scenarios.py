"""What must come out of situations that have gone wrong elsewhere, on the simulated fleet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from tests.sim.neuron import Host, Life
from tests.sim.simulation import SETTINGS, SimGateway, Simulation

from cortex_contracts.inventory.clients import KeyEntry, digest_of
from cortex_contracts.inventory.files import KeysFile
from cortex_contracts.inventory.fleet import EvictionStrategy, Model
from cortex_contracts.wire.neuron import ModelStatus

KEY = "a-key-of-alice-here"


def model(name: str, vram_mb: int = 16000, **fields: Any) -> Model:
    return Model(id=name, source="-", vram_mb=vram_mb, **fields)


@pytest.fixture
def fleets() -> Iterator[list[Simulation]]:
    """Those that a test makes; what they saw is judged at the end."""
    made: list[Simulation] = []
    yield made
    for simulation in made:
        simulation.settle()
        violations = simulation.witness.violations
        simulation.end()
        assert not violations, violations


def fleet(made: list[Simulation], *models: Model, hosts: int = 1) -> Simulation:
    """Hosts with one card of 24 GB each."""
    made.append(Simulation([Host(f"n{number}") for number in range(hosts)], models))
    return made[-1]


def all_of(simulation: Simulation, *requests: asyncio.Task[str]) -> list[str]:
    async def gather() -> list[str]:
        return await asyncio.gather(*requests)

    return simulation.run(gather())


async def _come_again(simulation: Simulation, gateway: SimGateway, model_id: str, until_s: float) -> int:
    """A client that asks for one model all the time, with a breath between; how often it was answered."""
    answered = 0
    while simulation.loop.time() < until_s:
        answered += await simulation.ask(gateway, model_id) == "ok"
        await asyncio.sleep(0.5)
    return answered


@pytest.mark.parametrize("strategy", ["lru", "priority"])
def test_two_models_that_displace_each_other_both_go_on(fleets: list[Simulation], strategy: EvictionStrategy) -> None:
    """Mutual swaps, both ways, again and again: neither starves the other (case L6)."""
    simulation = fleet(fleets, model("a"), model("b"))
    gateway = simulation.add_gateway("g", strategy=strategy)

    async def both() -> list[int]:
        return await asyncio.gather(*(_come_again(simulation, gateway, name, 300.0) for name in ("a", "b")))

    answered = simulation.run(both())
    assert min(answered) >= 10, answered
    assert simulation.witness.evictions >= 20


def test_models_that_take_turns_sleep_and_wake_and_the_longest_asleep_is_unloaded(fleets: list[Simulation]) -> None:
    """Where a host has memory for that: each is loaded from its files once, but for those that had to make room."""
    fleets.append(Simulation([Host("n0", sleep_mb=46000)], [model(name) for name in "abcde"]))
    gateway, witness = fleets[-1].add_gateway("g"), fleets[-1].witness
    neuron = fleets[-1].neurons["n0"]
    for name in "abcabc":
        assert all_of(fleets[-1], fleets[-1].ask(gateway, name)) == ["ok"]
    assert {name: str(each.status) for name, each in neuron.residents.items()} == {
        "a": "sleeping", "b": "sleeping", "c": "loaded"
    }  # fmt: skip
    assert not witness.checks["no request waits for a sleeper that is unloaded"]
    for name in "de":
        assert all_of(fleets[-1], fleets[-1].ask(gateway, name)) == ["ok"]
    assert neuron.residents["a"].status is ModelStatus.UNLOADED
    assert witness.sleeps == witness.evictions == witness.checks["no more host memory than is set aside"] == 7
    assert witness.checks["no request waits for a sleeper that is unloaded"] == 1


def test_who_is_to_be_woken_is_not_unloaded_for_the_sleep_of_whoever_goes_for_it(fleets: list[Simulation]) -> None:
    """It has slept longest, as is usual of models that take turns: the one after it makes room."""
    fleets.append(Simulation([Host("n0", sleep_mb=32000)], [model(name) for name in "abc"]))
    gateway, neuron = fleets[-1].add_gateway("g"), fleets[-1].neurons["n0"]
    for name in "abca":
        assert all_of(fleets[-1], fleets[-1].ask(gateway, name)) == ["ok"]
    assert {name: str(each.status) for name, each in neuron.residents.items()} == {
        "a": "loaded", "b": "unloaded", "c": "sleeping"
    }  # fmt: skip


def test_a_model_that_is_wanted_while_it_is_to_make_room_is_woken(fleets: list[Simulation]) -> None:
    """Two are to go for a newcomer that falls asleep; the second is asked for while the first ends, and serves."""
    models = [model("a", 8000), model("b", 8000), model("c", 15000)]
    fleets.append(Simulation([Host("n0", (24000, 24000), sleep_mb=16000)], models))
    simulation, neuron = fleets[-1], fleets[-1].neurons["n0"]
    gateway = simulation.add_gateway("g")

    async def sleep(*names: str) -> None:
        for name in names:
            await neuron.unload(name, if_idle=True, level="sleep")

    assert all_of(simulation, *(simulation.ask(gateway, name) for name in "abc")) == ["ok"] * 3
    simulation.run(sleep("a", "b"))
    simulation.pass_time(3.0)
    falling = simulation.loop.create_task(sleep("c"))
    while neuron.residents["a"].status is not ModelStatus.DRAINING:
        simulation.pass_time(0.01)
    assert all_of(simulation, simulation.ask(gateway, "b")) == ["ok"]
    simulation.pass_time(1.0)
    assert falling.done()
    assert [str(neuron.residents[name].status) for name in "ab"] == ["unloaded", "loaded"]
    assert neuron.residents["b"].loads == 2
    assert simulation.witness.checks["no request waits for a sleeper that is unloaded"] == 1


def test_a_model_that_dies_asleep_is_loaded_anew_for_whoever_asks(fleets: list[Simulation]) -> None:
    """The gateway's last poll has it asleep still; nobody waits for what is gone."""
    fleets.append(Simulation([Host("n0", sleep_mb=32000)], [model("a"), model("b")]))
    simulation, neuron = fleets[-1], fleets[-1].neurons["n0"]
    gateway = simulation.add_gateway("g")
    assert [all_of(simulation, simulation.ask(gateway, name))[0] for name in "ab"] == ["ok", "ok"]
    assert neuron.residents["a"].status is ModelStatus.SLEEPING
    simulation.call(lambda: neuron.crash("a"))
    while neuron.residents["a"].status is not ModelStatus.UNLOADED:
        simulation.pass_time(0.01)
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]


def test_a_sleeper_is_woken_where_it_sleeps_and_elsewhere_only_if_that_neuron_is_gone(fleets: list[Simulation]) -> None:
    """Across the fleet: a neuron beside it has more room, and is taken once the one where it sleeps is drained."""
    fleets.append(Simulation([Host("n0", sleep_mb=32000), Host("n1", (48000,))], [model("a")]))
    simulation, neuron = fleets[-1], fleets[-1].neurons["n0"]
    gateway = simulation.add_gateway("g")
    simulation.call(lambda: neuron.furnish("a"))
    for _ in range(2):
        simulation.run(neuron.unload("a", if_idle=True, level="sleep"))
        simulation.pass_time(3.0)
        assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    assert (neuron.residents["a"].loads, simulation.witness.loads) == (3, 2)
    simulation.run(neuron.unload("a", if_idle=True, level="sleep"))
    neuron.drain(True)
    simulation.pass_time(3.0)
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    assert neuron.residents["a"].status is ModelStatus.SLEEPING


def test_two_gateways_that_want_the_same_room_both_go_on(fleets: list[Simulation]) -> None:
    """They share no state: what each evicts is judged by the neuron."""
    simulation = fleet(fleets, model("a"), model("b"))
    gateways = [simulation.add_gateway(name) for name in ("g", "h")]

    async def both() -> list[int]:
        pairs = zip(gateways, ("a", "b"), strict=True)
        return await asyncio.gather(*(_come_again(simulation, gateway, name, 300.0) for gateway, name in pairs))

    assert min(simulation.run(both())) >= 10


def test_a_hundred_requests_at_once_are_one_load_and_a_bounded_queue(fleets: list[Simulation]) -> None:
    """So many wait as may; the others are told at once, with a Retry-After (cases L1, L10)."""
    simulation = fleet(fleets, model("a"), hosts=3)
    gateway = simulation.add_gateway("g")
    answers = Counter(all_of(simulation, *(simulation.ask(gateway, "a", max_tokens=1) for _ in range(100))))
    assert simulation.witness.loads == 1
    assert answers["queue_full"] >= 100 - SETTINGS.queue_limit
    assert answers["ok"] >= 12


def test_clients_that_leave_while_they_wait_leave_no_seat(fleets: list[Simulation]) -> None:
    """In the load, before the first word, in the stream; an idle model is served at once afterwards (case L9)."""
    simulation = fleet(fleets, model("a"))
    gateway = simulation.add_gateway("g")
    for _ in range(5):
        for patience_s in (0.001, 0.5, 2.0, 4.0, 4.5):
            simulation.ask(gateway, "a", stream=True, max_tokens=500, patience_s=patience_s)
        simulation.pass_time(10.0)
        gateway.check_quiet()
    assert gateway.outcomes == {"client_gone": 25}
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]


def test_a_neuron_that_falls_silent_is_left_within_seconds(fleets: list[Simulation]) -> None:
    """Its waiting requests end with a word, new ones go elsewhere (case L4)."""
    simulation = fleet(fleets, model("a"), hosts=2)
    gateway = simulation.add_gateway("g")
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    (holder,) = [each for each in simulation.neurons.values() if "a" in each.residents]
    simulation.call(lambda: holder.live(Life.HUNG))
    waiting = [simulation.ask(gateway, "a") for _ in range(5)]
    simulation.pass_time(30.0)
    assert {request.result() for request in waiting} <= {"upstream_timeout", "ok"}
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]


def test_the_lower_never_displaces_the_higher(fleets: list[Simulation]) -> None:
    """Under `priority` it is told that there is no room; the higher takes its room back (case L6)."""
    simulation = fleet(fleets, model("high", priority=5), model("low", priority=1))
    gateway = simulation.add_gateway("g", strategy="priority")
    asked = ("low", "high", "low", "high")
    outcomes = [all_of(simulation, simulation.ask(gateway, name))[0] for name in asked]
    assert outcomes == ["ok", "ok", "no_capacity", "ok"]


def test_what_an_operator_pins_stays(fleets: list[Simulation]) -> None:
    """Whoever asks, until it is unpinned."""
    simulation = fleet(fleets, model("a"), model("b"))
    gateway = simulation.add_gateway("g")
    neuron = simulation.neurons["n0"]
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    neuron.pin("a", True)
    simulation.pass_time(3.0)
    assert all_of(simulation, simulation.ask(gateway, "b")) == ["no_capacity"]
    neuron.pin("a", False)
    simulation.pass_time(3.0)
    assert all_of(simulation, simulation.ask(gateway, "b")) == ["ok"]


def test_a_neuron_that_comes_back_empty_is_loaded_anew(fleets: list[Simulation]) -> None:
    """Between two polls nobody sees that it was gone; what it has room for again is known with the next."""
    simulation = fleet(fleets, model("a"))
    gateway = simulation.add_gateway("g")
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    neuron = simulation.neurons["n0"]
    simulation.call(lambda: neuron.live(Life.DEAD))
    simulation.call(lambda: neuron.live(Life.UP))
    simulation.ask(gateway, "a")
    simulation.pass_time(SETTINGS.poll_interval_s)
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    assert neuron.residents["a"].status is ModelStatus.LOADED


def test_a_neuron_that_fails_every_request_is_left_alone_and_tried_again(fleets: list[Simulation]) -> None:
    """It answers its polls all the while: the circuit opens, lets one through now and then, and closes."""
    simulation = fleet(fleets, model("a"))
    gateway = simulation.add_gateway("g")
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    neuron = simulation.neurons["n0"]
    neuron.ill = True

    async def ask_all_the_time() -> None:
        for _ in range(300):
            simulation.ask(gateway, "a")
            await asyncio.sleep(0.2)

    simulation.run(ask_all_the_time())
    assert 5 <= gateway.outcomes["group_died"] <= 20  # the rest was told at once
    assert gateway.outcomes["unavailable"] >= 270
    neuron.ill = False
    simulation.pass_time(31.0)
    assert all_of(simulation, simulation.ask(gateway, "a"), simulation.ask(gateway, "a"))[0] == "ok"
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]


def test_a_load_that_takes_too_long_is_told_in_time(fleets: list[Simulation]) -> None:
    """A 503 once the bound is reached; the load goes on, and whoever comes again finds it (case L5)."""
    simulation = fleet(fleets, model("a"))
    gateway = simulation.add_gateway("g")
    simulation.neurons["n0"].slowness = 20.0
    request = simulation.ask(gateway, "a", max_tokens=1)
    simulation.pass_time(SETTINGS.cold_load_timeout_s + 1)
    assert request.result() == "model_loading"
    simulation.pass_time(120.0)
    assert all_of(simulation, simulation.ask(gateway, "a", max_tokens=1)) == ["ok"]
    assert simulation.witness.loads == 1


def test_a_load_that_fails_is_tried_again_after_its_pause_and_not_before(fleets: list[Simulation]) -> None:
    """Not by every request, and not never."""
    simulation = fleet(fleets, model("a"))
    gateway = simulation.add_gateway("g")
    simulation.neurons["n0"].failing["a"] = 1
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["model_failed"]
    simulation.pass_time(SETTINGS.poll_interval_s)  # until then the memory is believed to be taken
    outcomes = [all_of(simulation, simulation.ask(gateway, "a"))[0] for _ in range(20)]
    assert outcomes == ["model_failed"] * 20
    assert simulation.witness.loads == 1
    simulation.pass_time(31.0)
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]


def test_memory_that_a_load_will_take_is_not_promised_twice(fleets: list[Simulation]) -> None:
    """The second model is told at once that there is no room, not by a neuron that refuses (case L7)."""
    simulation = fleet(fleets, model("a"), model("b"))
    gateway = simulation.add_gateway("g")
    first, second = simulation.ask(gateway, "a"), simulation.ask(gateway, "b")
    assert all_of(simulation, first, second) == ["ok", "no_capacity"]
    assert simulation.witness.loads == 1


def test_a_request_protects_its_model_from_its_first_moment(fleets: list[Simulation]) -> None:
    """The last poll has it as idle; what this gateway has sent since counts all the same (case L6)."""
    simulation = fleet(fleets, model("a"), model("b"))
    gateway = simulation.add_gateway("g")
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["ok"]
    simulation.pass_time(3.0)
    simulation.ask(gateway, "a", max_tokens=500)
    simulation.pass_time(0.001)
    assert all_of(simulation, simulation.ask(gateway, "b")) == ["no_capacity"]


def test_a_keys_seats_come_back_however_its_requests_end(fleets: list[Simulation]) -> None:
    """Answered, refused or left by their client: after that it has as many as before (case L9)."""
    digest = digest_of(SecretStr(KEY))
    keys = KeysFile(keys=(KeyEntry(name="alice", sha256=digest, concurrent_requests=2),))
    simulation = fleet(fleets, model("a"))
    gateway = simulation.add_gateway("g", keys=keys)
    for patience_s in (0.001, 1.0, 5.0, None):
        asked = [simulation.ask(gateway, "a", key=KEY, patience_s=patience_s) for _ in range(5)]
        outcomes = Counter(all_of(simulation, *asked))
        assert outcomes == {"client_gone" if patience_s in (0.001, 1.0) else "ok": 2, "concurrency_limit_exceeded": 3}
    assert all_of(simulation, simulation.ask(gateway, "a")) == ["invalid_api_key"]
