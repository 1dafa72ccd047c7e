"""The fleet as an operator sees it: beliefs, catalogue and the requests under way as one FleetStatus.

Owns: how those become rows, and that any worker of a gateway shows the requests of all. Called by: api/fleet.py,
gateway.py (lay_out).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TypeVar

from pydantic import TypeAdapter

from cortex_contracts.wire.fleet import DeviceNow, FleetStatus, GatewayNow, ModelNow, NeuronNow, RequestNow
from cortex_gateway.api.models import entry
from cortex_gateway.api.version import VERSION
from cortex_gateway.exchange import Exchange, Stage
from cortex_gateway.fleet.snapshot import ModelView, NeuronView
from cortex_gateway.state import State

_Item = TypeVar("_Item")
_A_TURN = 100  # neurons or models, about 2 ms
_REQUESTS_PAGE, DECISIONS_PAGE = "requests", "decisions"
_ROWS = TypeAdapter(list[RequestNow])


def lay_out(state: State) -> None:
    """Let the other workers of this gateway show its requests and decisions as well."""
    state.worker.lay_out(_REQUESTS_PAGE, _ROWS.dump_json(_requests(state, time.monotonic())))
    state.worker.lay_out(DECISIONS_PAGE, state.decisions.page())


async def fleet_status(state: State, created: int) -> FleetStatus:
    """Everything there is, each list in the order of its names; requests oldest first."""
    neurons = [_neuron(state, neuron) async for neuron in _in_turns(_by_name(state.beliefs.snapshot().neurons))]
    snapshot = state.beliefs.snapshot()
    models = [
        entry(model, snapshot, state.outstanding, created)
        async for model in _in_turns(_by_name(state.config.catalogue.models))
    ]
    now = time.monotonic()
    requests = _requests(state, now)
    for page in state.worker.others(_REQUESTS_PAGE):
        requests += _ROWS.validate_json(page)
    return FleetStatus(
        gateway=_gateway(state, now, sum(request.stage == Stage.WAITING for request in requests)),
        neurons=neurons,
        models=models,
        requests=sorted(requests, key=lambda request: request.age_s, reverse=True),
    )


def _by_name(named: Mapping[str, _Item]) -> list[_Item]:
    return [item for _, item in sorted(named.items())]


async def _in_turns(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """Each of them, with turns for others between: all of a large fleet take a tenth of a second."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _A_TURN == 0:
            await asyncio.sleep(0)


def _gateway(state: State, now: float, waiting: int) -> GatewayNow:
    return GatewayNow(
        version=VERSION,
        uptime_s=round(now - state.worker.all.started, 3),
        gate=state.admission.gate.value,
        in_flight=state.admission.in_flight,
        waiting=waiting,
        workers=state.worker.all.count,
    )


def _requests(state: State, now: float) -> list[RequestNow]:
    return [_request(exchange, now) for exchange in state.admission.inside]


def _neuron(state: State, neuron: NeuronView) -> NeuronNow:
    return NeuronNow(
        name=neuron.name,
        url=neuron.url,
        reach=neuron.reach.value,
        state=neuron.state,
        strikes=neuron.strikes,
        version=neuron.version,
        device_kind=neuron.device_kind,
        harnesses=sorted(neuron.harnesses),
        devices=list(_devices(state, neuron)),
        models=[_model(state, neuron, model) for _, model in sorted(neuron.models.items())],
    )


def _devices(state: State, neuron: NeuronView) -> Iterator[DeviceNow]:
    condition = state.beliefs.condition(neuron.name)
    healths = {health.index: health for health in condition.devices} if condition else {}
    for device in neuron.devices:
        health = healths.get(device.index)
        yield DeviceNow(
            index=device.index,
            name=device.name,
            vram_total_mb=device.vram_total_mb,
            vram_free_mb=device.vram_free_mb,
            utilization_pct=health.utilization_pct if health else None,
            temp_c=health.temp_c if health else None,
        )


def _model(state: State, neuron: NeuronView, model: ModelView) -> ModelNow:
    declared = state.config.catalogue.models.get(model.id)
    return ModelNow(
        id=model.id,
        status=model.status,
        devices=list(model.devices),
        vram_used_mb=model.vram_used_mb,
        host_memory_mb=model.host_memory_mb,
        in_flight=model.elsewhere + state.outstanding.get((neuron.name, model.id), 0),
        pinned=model.pinned or (declared is not None and neuron.name in declared.pinned_on),
        circuit=state.circuits.state(neuron.name, model.id).value,
        last_used_s=None if model.last_used_at is None else max(0.0, round(time.time() - model.last_used_at, 1)),
        progress=model.progress,
        failure=model.failure,
    )


def _request(exchange: Exchange, now: float) -> RequestNow:
    return RequestNow(
        request_id=exchange.request_id,
        key=exchange.key,
        path=exchange.path,
        model=exchange.model,
        neuron=exchange.neuron,
        stream=exchange.stream,
        stage=exchange.stage.value,
        age_s=round(now - exchange.started, 3),
        ttft_s=exchange.first_content_s,
    )
