"""Where foreign engines are served is asked once a load."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import cast

from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.fleet.snapshot import ModelView, NeuronView
from cortex_gateway.forwarding.endpoints import Endpoints


class Client:
    """Answers with another port each time."""

    def __init__(self) -> None:
        self.asked = 0

    async def endpoint(self, url: str, model_id: str) -> str:
        self.asked += 1
        return f"{url}/{model_id}/{self.asked}"


def neuron(loads: int) -> NeuronView:
    model = ModelView("m", ModelStatus.LOADED, loads=loads)
    return NeuronView("one", "http://one", models=MappingProxyType({"m": model}))


async def test_an_endpoint_is_asked_once_a_load_and_again_after_a_failure() -> None:
    """A request to a foreign engine is one request, not two; an engine that was started anew has another port."""
    client = Client()
    endpoints = Endpoints(cast(NeuronClient, client))
    assert [await endpoints.of(neuron(1), "m") for _ in range(3)] == ["http://one/m/1"] * 3
    assert await endpoints.of(neuron(2), "m") == "http://one/m/2"
    endpoints.forget(neuron(2), "m")
    assert await endpoints.of(neuron(2), "m") == "http://one/m/3"
    assert await endpoints.of(replace(neuron(2), url="http://two"), "m") == "http://two/m/4"
