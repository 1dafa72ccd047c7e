"""GET /health: what the gateway thinks of itself and of its neurons. Called by: api/routes.py."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Literal

from sanic import HTTPResponse, Request

from cortex_contracts.wire.gateway import GatewayHealth, NeuronSeen
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.admission.gate import Gate
from cortex_gateway.api.answers import json_answer
from cortex_gateway.api.version import VERSION
from cortex_gateway.fleet.snapshot import NeuronView, Snapshot
from cortex_gateway.state import State


class HealthPage:
    """The handler. 200 while the gateway takes requests, whatever `status` says of the fleet; else 503, so that load
    balancers leave."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, _request: Request) -> HTTPResponse:
        state, snapshot = self._state, self._state.beliefs.snapshot()
        health = GatewayHealth(
            status=status(snapshot, state.admission.gate),
            uptime_secs=round(time.monotonic() - state.worker.all.started, 3),
            version=VERSION,
            in_flight=state.admission.in_flight,
            neurons=[_seen(neuron) for _, neuron in sorted(snapshot.neurons.items())],
        )
        return json_answer(
            health, HTTPStatus.OK if state.admission.gate is Gate.OPEN else HTTPStatus.SERVICE_UNAVAILABLE
        )


def status(snapshot: Snapshot, gate: Gate) -> Literal["ok", "degraded", "unavailable", "draining", "stopping"]:
    """The one word for it."""
    if gate is not Gate.OPEN:
        return "stopping" if gate is Gate.CLOSED else "draining"
    healthy = [neuron.healthy for neuron in snapshot.neurons.values()]
    if not any(healthy):
        return "unavailable"
    return "ok" if all(healthy) else "degraded"


def _seen(neuron: NeuronView) -> NeuronSeen:
    loaded = [model.id for model in neuron.models.values() if model.status is ModelStatus.LOADED]
    return NeuronSeen(
        name=neuron.name,
        url=neuron.url,
        healthy=neuron.healthy,
        state=neuron.state,
        strikes=neuron.strikes,
        models=sorted(loaded) if neuron.healthy else [],
        version=neuron.version,
    )
