"""The neuron's own HTTP contract (cortex_contracts.wire.neuron), for gateway and operator.

Owns: these routes' handlers. All but load, unload and verify answer from what is already known: nothing else here waits
for an engine or a driver (case T7). Called by: application.
"""

from __future__ import annotations

import time
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter
from sanic import HTTPResponse, Request
from sanic.response import raw

from cortex_contracts.wire import neuron as wire
from cortex_dialects.json_body import parse_object
from cortex_dialects.validation import validate
from cortex_neuron.api import verification
from cortex_neuron.api.neuron import Neuron, of
from cortex_neuron.hardware import devices
from cortex_neuron.protocol.frames import PROTOCOL_VERSION
from cortex_serving.request_body import check_media_type

_ROWS = TypeAdapter(list[wire.ModelRow])
_ENDPOINT = "/endpoint"
Shape = TypeVar("Shape", bound=BaseModel)


async def discovery(request: Request) -> HTTPResponse:
    """GET /discovery"""
    neuron = of(request)
    beds_mb = neuron.settings.sleep_host_memory_mb
    return _json(devices.discovery(neuron.devices.now, neuron.version, neuron.residency.harnesses, beds_mb))


async def health(request: Request) -> HTTPResponse:
    """GET /health"""
    neuron = of(request)
    uptime_secs = round(time.monotonic() - neuron.started, 3)
    return _json(wire.Health(uptime_secs=uptime_secs, **dict(_condition(neuron))))


async def models(request: Request) -> HTTPResponse:
    """GET /models"""
    return raw(_ROWS.dump_json(_rows(of(request))), content_type="application/json")


async def report(request: Request) -> HTTPResponse:
    """GET /report"""
    neuron = of(request)
    return _json(wire.Report(health=_condition(neuron), models=_rows(neuron)))


async def model(request: Request, model_id: str) -> HTTPResponse:
    """GET /models/{id} and GET /models/{id}/endpoint; an id may hold slashes."""
    name = model_id.rstrip("/")
    residency = of(request).residency
    if name.endswith(_ENDPOINT):
        resident = residency.find(name.removesuffix(_ENDPOINT))
        resident.lend()
        return _json(wire.EndpointAnswer(url=f"{request.scheme}://{request.host}"))
    return _json(residency.find(name).row())


async def load(request: Request) -> HTTPResponse:
    """POST /models/load: answers once the load is under way."""
    resident = await of(request).residency.load(_body(request, wire.LoadRequest))
    return _json(wire.StatusAnswer(model_id=resident.model.id, status=resident.status))


async def unload(request: Request) -> HTTPResponse:
    """POST /models/unload: answers when the memory is free."""
    wanted = _body(request, wire.UnloadRequest)
    resident = await of(request).residency.unload(wanted.model_id, wanted.if_idle, wanted.level, wanted.newcomer)
    return _json(wire.StatusAnswer(model_id=resident.model.id, status=resident.status))


async def verify(request: Request) -> HTTPResponse:
    """POST /models/verify: answers when the model has answered."""
    return _json(await verification.verify(of(request), _body(request, wire.VerifyRequest)))


async def pin(request: Request) -> HTTPResponse:
    """POST /models/pin: no gateway evicts it any more, until it is unpinned or the daemon ends."""
    wanted = _body(request, wire.PinRequest)
    resident = of(request).residency.find(wanted.model_id)
    resident.pinned = wanted.pinned
    return _json(wire.StatusAnswer(model_id=resident.model.id, status=resident.status))


async def drain(request: Request) -> HTTPResponse:
    """POST /drain"""
    of(request).residency.drain()
    return _json(wire.StateAnswer(state=of(request).preloads.state()))


async def undrain(request: Request) -> HTTPResponse:
    """POST /undrain"""
    of(request).residency.undrain()
    return _json(wire.StateAnswer(state=of(request).preloads.state()))


async def version(request: Request) -> HTTPResponse:
    """GET /version"""
    neuron = of(request)
    return _json(
        wire.VersionAnswer(
            version=neuron.version, protocol=PROTOCOL_VERSION, release=neuron.release, files=dict(neuron.files())
        )
    )


async def metrics(request: Request) -> HTTPResponse:
    """GET /metrics"""
    return raw(of(request).metrics.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _condition(neuron: Neuron) -> wire.Condition:
    return wire.Condition(
        state=neuron.preloads.state(),
        activation=neuron.preloads.progress(),
        devices=list(neuron.residency.device_health()),
        models=[each.health() for each in neuron.residency.residents.values()],
        version=neuron.version,
    )


def _rows(neuron: Neuron) -> list[wire.ModelRow]:
    return [each.row() for each in neuron.residency.residents.values()]


def _body(request: Request, shape: type[Shape]) -> Shape:
    check_media_type(request)
    return validate(shape, parse_object(request.body), {})


def _json(answer: BaseModel) -> HTTPResponse:
    return raw(answer.model_dump_json(), content_type="application/json")
