"""What is believed once a load is done, without a poll to tell of it."""

from __future__ import annotations

from collections import Counter

from scripted_neuron import scripted

from cortex_contracts.inventory.files import NeuronAddress
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.beliefs import Beliefs, Report
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.loading import Loads
from cortex_gateway.metrics import Metrics
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.routing.decision import Load
from cortex_gateway.workers import Workers


async def test_an_evicted_model_is_not_believed_to_be_loaded_again() -> None:
    """The last poll still has it as loaded: a request would be sent there, and a round of recycling bring it back."""
    async with scripted("one", "old") as neuron, NeuronClient(5.0) as client:
        beliefs = Beliefs([NeuronAddress(name="one", url=neuron.url)])
        discovery, said = await client.discovery(neuron.url), await client.report(neuron.url)
        beliefs.answered("one", Report(discovery, said.health, tuple(said.models)), {})
        metrics = Metrics(beliefs.snapshot, lambda: (), Workers().seat(0), Circuits())
        loads = Loads(beliefs, client, metrics, kick=lambda name: None)
        decision = Load(beliefs.snapshot().neurons["one"], (0,), evict=("old",))
        await loads.until_loaded(Model(id="new", source="-", vram_mb=1), decision, timeout_s=10)
        statuses = {view.id: view.status for view in beliefs.snapshot().neurons["one"].models.values()}
        assert statuses == {"old": ModelStatus.UNLOADED, "new": ModelStatus.LOADED}
        assert loads.evictions == Counter(one=1)
