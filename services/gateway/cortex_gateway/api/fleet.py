"""The operator API under /fleet: handlers that ask for the admin key, parse, call and respond.

Owns: the table of its routes. Does not own: what a command does (operations.py). Called by: api/routes.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from pydantic import BaseModel
from sanic import HTTPResponse, Request

from cortex_contracts.wire import fleet as wire
from cortex_contracts.wire.openapi import Route
from cortex_dialects.json_body import parse_object
from cortex_dialects.validation import validate
from cortex_gateway.api.answers import json_answer
from cortex_gateway.api.fleet_status import DECISIONS_PAGE, fleet_status
from cortex_gateway.operations import Operations
from cortex_gateway.routing.explain import explain
from cortex_gateway.routing.rules import Ask
from cortex_gateway.state import State
from cortex_serving.application import App, request_id
from cortex_serving.request_body import check_media_type

_Shape = TypeVar("_Shape", bound=BaseModel)
_MODEL, _NEURON, _DONE = wire.ModelCommand, wire.NeuronCommand, wire.CommandDone

ROUTES = (
    Route("GET", "/fleet/status", "All that the gateway knows of the fleet", response=wire.FleetStatus),
    Route(
        "GET", "/fleet/explain", "What a request for a model would meet, and why", response=wire.Explanation,
        query=wire.ExplainQuery,
    ),
    Route(
        "GET", "/fleet/decisions", "The last decisions, newest first", response=wire.Decisions,
        query=wire.DecisionsQuery,
    ),
    Route("POST", "/fleet/models/load", "Load a model", _MODEL, _DONE, query=wire.LoadQuery),
    Route("POST", "/fleet/models/unload", "Unload a model", _MODEL, _DONE, query=wire.UnloadQuery),
    Route("POST", "/fleet/models/pin", "Keep a model from eviction", _MODEL, _DONE),
    Route("POST", "/fleet/models/unpin", "Let it be evicted again", _MODEL, _DONE),
    Route("POST", "/fleet/neurons/drain", "Have a neuron take nothing new", _NEURON, _DONE),
    Route("POST", "/fleet/neurons/undrain", "Have it take work again", _NEURON, _DONE),
    Route("POST", "/fleet/gateway/drain", "Have this gateway take no request", response=_DONE),
    Route("POST", "/fleet/gateway/undrain", "Have it take requests again", response=_DONE),
)  # fmt: skip


class FleetApi:
    """The handlers. `created` is what models say of when they were made."""

    def __init__(self, state: State, operations: Operations, created: int) -> None:
        self._state, self._operations, self._created = state, operations, created

    def add_to(self, app: App) -> None:
        """Every route, behind the admin key."""
        handlers = (
            self._status, self._explain, self._decisions, self._load, self._unload, self._pin, self._unpin,
            self._drain, self._undrain, self._drain_gateway, self._undrain_gateway,
        )  # fmt: skip
        for route, handler in zip(ROUTES, handlers, strict=True):
            app.add_route(self._for_operators(handler), route.path, methods=[route.method], name=route.path)

    def _for_operators(
        self, answer: Callable[[Request], Awaitable[BaseModel]]
    ) -> Callable[[Request], Coroutine[None, None, HTTPResponse]]:
        async def answer_operator(request: Request) -> HTTPResponse:
            self._state.config.keys.check_operator(request.headers)
            return json_answer(await answer(request))

        return answer_operator

    async def _status(self, _request: Request) -> wire.FleetStatus:
        return await fleet_status(self._state, self._created)

    async def _explain(self, request: Request) -> wire.Explanation:
        model = self._state.config.catalogue.resolve(_query(request, wire.ExplainQuery).model)
        ask = Ask(asyncio.get_running_loop().time())
        return explain(self._state.beliefs.snapshot(), model, self._state.rules(), ask)

    async def _decisions(self, request: Request) -> wire.Decisions:
        query = _query(request, wire.DecisionsQuery)
        model_id = self._state.config.catalogue.resolve(query.model).id if query.model is not None else None
        siblings = self._state.worker.others(DECISIONS_PAGE)
        return wire.Decisions(data=self._state.decisions.last(query.limit, model_id, siblings))

    async def _load(self, request: Request) -> wire.CommandDone:
        wait = _query(request, wire.LoadQuery).wait
        return await self._operations.load(_body(request, _MODEL), request_id(request), wait)

    async def _unload(self, request: Request) -> wire.CommandDone:
        return await self._operations.unload(_body(request, _MODEL), _query(request, wire.UnloadQuery).force)

    async def _pin(self, request: Request) -> wire.CommandDone:
        return await self._operations.pin(_body(request, _MODEL), pinned=True)

    async def _unpin(self, request: Request) -> wire.CommandDone:
        return await self._operations.pin(_body(request, _MODEL), pinned=False)

    async def _drain(self, request: Request) -> wire.CommandDone:
        return await self._operations.drain_neuron(_body(request, _NEURON).neuron, drained=True)

    async def _undrain(self, request: Request) -> wire.CommandDone:
        return await self._operations.drain_neuron(_body(request, _NEURON).neuron, drained=False)

    async def _drain_gateway(self, _request: Request) -> wire.CommandDone:
        return self._operations.drain_gateway(drained=True)

    async def _undrain_gateway(self, _request: Request) -> wire.CommandDone:
        return self._operations.drain_gateway(drained=False)


def _body(request: Request, shape: type[_Shape]) -> _Shape:
    check_media_type(request)
    return validate(shape, parse_object(request.body), {})


def _query(request: Request, shape: type[_Shape]) -> _Shape:
    return validate(shape, dict(request.query_args), {})
