"""What a load does and what is believed once it is done, without a poll to tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from scripted_neuron import ScriptedNeuron, scripted

from cortex_contracts.inventory.files import NeuronAddress
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import ModelFailed, Unavailable
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.beliefs import Beliefs, Report
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.loading import Loads
from cortex_gateway.processes.workers import Workers
from cortex_gateway.records.metrics import Metrics
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.routing.decision import Load, WaitForLoad

NEW = Model(id="new", source="-", vram_mb=1)


@asynccontextmanager
async def loads_of(neuron: ScriptedNeuron) -> AsyncIterator[tuple[Beliefs, Loads]]:
    """A gateway's loads on one neuron that has been polled once."""
    async with NeuronClient(5.0) as client:
        beliefs = Beliefs([NeuronAddress(name="one", url=neuron.url)])
        discovery, said = await client.discovery(neuron.url), await client.report(neuron.url)
        beliefs.answered("one", Report(discovery, said.health, tuple(said.models)), {})
        metrics = Metrics(beliefs.snapshot, lambda: (), Workers().seat(0), Circuits())
        yield beliefs, Loads(beliefs, client, metrics, kick=lambda name: None)


async def test_an_evicted_model_is_not_believed_to_be_loaded_again() -> None:
    """The last poll still has it as loaded: a request would be sent there, and a round of recycling bring it back."""
    async with scripted("one", "old") as neuron, loads_of(neuron) as (beliefs, loads):
        decision = Load(beliefs.snapshot().neurons["one"], (0,), evict=("old",))
        await loads.until_loaded(NEW, decision, timeout_s=10)
        statuses = {view.id: view.status for view in beliefs.snapshot().neurons["one"].models.values()}
        assert statuses == {"old": ModelStatus.UNLOADED, "new": ModelStatus.LOADED}
        assert loads.evictions == Counter(one=1)


async def test_a_victim_that_another_gateway_has_come_to_use_stays() -> None:
    """The neuron refuses, nothing is loaded, and the next decision knows that the victim is in use (case L6)."""
    async with scripted("one", "old") as neuron, loads_of(neuron) as (beliefs, loads):
        decision = Load(beliefs.snapshot().neurons["one"], (0,), evict=("old",))
        neuron.has("old", in_flight=1)  # since the poll
        await loads.until_loaded(NEW, decision, timeout_s=10)
        assert (neuron.unloads, neuron.loads, loads.evictions) == ([], [], Counter())
        old = beliefs.snapshot().neurons["one"].models["old"]
        assert (old.status, old.elsewhere) == (ModelStatus.LOADED, 1)


async def test_a_round_of_recycling_takes_down_nothing_that_is_in_use() -> None:
    """It ends with a 503, not with a word that the model is back."""
    async with scripted("one", "new") as neuron, loads_of(neuron) as (beliefs, loads):
        decision = Load(beliefs.snapshot().neurons["one"], (0,), evict=("new",))
        neuron.has("new", in_flight=1)
        with pytest.raises(Unavailable, match="in use"):
            await loads.until_loaded(NEW, decision, timeout_s=10)
        assert neuron.orders == []


@pytest.mark.parametrize(
    ("budget_mb", "kind", "order"),
    [(0, "cuda", "unload old"), (8000, "cuda", "sleep old for new"), (8000, "cpu", "unload old")],
)
async def test_what_is_evicted_sleeps_where_the_neuron_has_memory_for_that(
    budget_mb: int, kind: str, order: str
) -> None:
    """Never on a CPU, where its weights would stay in the memory that is wanted. The load waits until it sleeps."""
    async with scripted("one", "old") as neuron:
        neuron.sleep_host_memory_mb, neuron.device_kind = budget_mb, kind
        async with loads_of(neuron) as (beliefs, loads):
            decision = Load(beliefs.snapshot().neurons["one"], (0,), evict=("old",))
            await loads.until_loaded(NEW, decision, timeout_s=10)
            assert neuron.orders == [order, "load new"]
            old = beliefs.snapshot().neurons["one"].models["old"]
            asleep = (ModelStatus.SLEEPING, 900) if "sleep" in order else (ModelStatus.UNLOADED, 0)
            assert (old.status, old.host_memory_mb) == asleep
            assert loads.evictions == Counter(one=1)


async def test_a_model_is_recycled_by_an_unload_though_it_could_sleep() -> None:
    """It is to have its memory in one piece again, in processes that are new."""
    async with scripted("one", "new") as neuron:
        neuron.sleep_host_memory_mb = 8000
        async with loads_of(neuron) as (beliefs, loads):
            await loads.until_loaded(NEW, Load(beliefs.snapshot().neurons["one"], (0,), evict=("new",)), timeout_s=10)
            assert neuron.orders == ["unload new", "load new"]


async def test_a_load_that_is_watched_and_ends_in_sleep_is_not_waited_for() -> None:
    """Another gateway has had it loaded, and evicted, between two looks."""
    async with scripted("one") as neuron, loads_of(neuron) as (beliefs, loads):
        neuron.has("new", "sleeping", vram_used_mb=0)
        with pytest.raises(ModelFailed, match="it is sleeping"):
            await loads.until_loaded(NEW, WaitForLoad(beliefs.snapshot().neurons["one"]), timeout_s=10)
