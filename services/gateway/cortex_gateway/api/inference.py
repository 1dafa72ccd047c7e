"""The inference routes: one request from its arrival to its one terminal log line (case S12).

Owns: the order of steps, and what is logged and counted. Does not own: any step. Called by: api/routes.py.
"""

from __future__ import annotations

import asyncio

import msgspec
from sanic import HTTPResponse, Request

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import CortexError
from cortex_contracts.wire.tasks import check_task, wanted_by
from cortex_dialects.dialect import dialect_of
from cortex_gateway.admission.keys import Client
from cortex_gateway.exchange import Exchange, Outcome
from cortex_gateway.forwarding.attempts import settle
from cortex_gateway.forwarding.call import Call, passed_on, read_brief
from cortex_gateway.records.access_log import AccessLog
from cortex_gateway.records.trace import Trace
from cortex_gateway.state import State
from cortex_serving import logs
from cortex_serving.application import answer_error, as_cortex_error, dialect, request_id
from cortex_serving.request_body import check_media_type

_KEEPS_NO_PREFIX = frozenset({"/v1/embeddings", "/v1/rerank"})  # who has served the text before is no faster


class Inference:
    """The handler of every route that a model answers."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, request: Request) -> HTTPResponse | None:
        state = self._state
        path = request.path.rstrip("/")
        exchange = Exchange(request_id(request), dialect_of(path), path, state.outstanding)
        request.ctx.exchange = exchange
        if state.tracer is not None:
            exchange.trace = Trace(state.tracer, path, request.headers)
        try:
            client = state.config.keys.client(request.headers)
            exchange.key, exchange.priority = client.name, client.allowance.priority
            state.admission.enter(exchange)
            state.meter.begin(exchange, client)
            call = self._call(request, exchange, client)
            settings = state.config.settings.gateway
            response = await state.forwarder.answer(request, call, exchange, state.rules(), settings)
            if response is not None:
                response.headers.update(exchange.limit_headers)
            return response
        except asyncio.CancelledError:
            exchange.client_gone()
            raise
        except Exception as failure:  # noqa: BLE001  the one place where a failure becomes an answer
            return self._failed(request, exchange, failure)
        finally:
            exchange.close()
            state.meter.end(exchange)
            settle(exchange, state.circuits)
            state.admission.leave(exchange)
            state.metrics.ended(exchange)
            if exchange.trace is not None:
                exchange.trace.end(exchange)
            _log(exchange, state.access_log)

    def _call(self, request: Request, exchange: Exchange, client: Client) -> Call:
        check_media_type(request)
        exchange.prompt_bytes = len(request.body)
        brief = read_brief(request.body)
        exchange.stream = bool(brief.stream)
        model = client.resolve(brief.model)
        exchange.model = model.id
        _check_task(model, exchange.path)
        return Call(
            model=model,
            name=brief.model,
            dialect=exchange.dialect,
            path=exchange.path,
            body=request.body,
            headers=passed_on(request.headers.items(), exchange.request_id, exchange.priority),
            stream=exchange.stream,
            request_id=exchange.request_id,
            prompt=() if exchange.path in _KEEPS_NO_PREFIX else brief.parts(),
        )

    def _failed(self, request: Request, exchange: Exchange, failure: Exception) -> HTTPResponse | None:
        error = as_cortex_error(request, failure)
        if error is not failure:
            logs.error("internal_error", exception=failure, request_id=exchange.request_id, path=exchange.path)
        exchange.failed(error.status, error.code)
        if exchange.status:  # the client was told inside its stream
            return None
        exchange.status = error.status
        return answer_error(request, error, exchange.limit_headers)


def _check_task(model: Model, path: str) -> None:
    """Before it is loaded for nothing, where the catalogue says what it is for; else only its files do, at a neuron.
    What vLLM serves is vLLM's to judge. Raises InvalidParameter."""
    wanted = wanted_by(path)
    if wanted is not None and model.task != "auto" and model.harness == "torch":
        check_task(model.id, model.task, wanted)


def _log(exchange: Exchange, access_log: AccessLog) -> None:
    """The terminal line of a request."""
    usage = msgspec.structs.asdict(exchange.usage) if exchange.usage is not None else {}
    first = exchange.first_content_s
    line = {
        "request_id": exchange.request_id,
        "path": exchange.path,
        "dialect": exchange.dialect,
        "key": exchange.key,
        "model": exchange.model,
        "neuron": exchange.neuron,
        "stream": exchange.stream,
        "status": exchange.status,
        "outcome": exchange.outcome,
        "code": exchange.code,
        "client_gone": exchange.outcome is Outcome.CLIENT_GONE,
        "duration_ms": round(exchange.duration_s * 1000, 1),
        "ttft_ms": round(first * 1000, 1) if first is not None else None,
        **usage,
    }
    if exchange.trace is not None:
        line["trace_id"] = exchange.trace.trace_id
    logs.info("request", **line)
    access_log.write(line)


async def answer_exception(access_log: AccessLog, request: Request, exception: BaseException) -> HTTPResponse:
    """What fails outside of Inference (no such route, half a body, no HTTP at all), with its own log line."""
    error = as_cortex_error(request, exception)
    if not hasattr(request.ctx, "exchange"):  # a client that left while Inference had its request comes here too
        _log_refusal(access_log, request, exception, error)
    return answer_error(request, error, dict(getattr(exception, "headers", None) or {}))


def _log_refusal(access_log: AccessLog, request: Request, exception: BaseException, error: CortexError) -> None:
    gone = isinstance(exception, asyncio.CancelledError)
    outcome = Outcome.SERVER_ERROR if error.status >= 500 else Outcome.CLIENT_ERROR
    if error is not exception and error.status >= 500:
        logs.error("internal_error", exception=exception, request_id=request_id(request), path=request.path)
    line = {
        "request_id": request_id(request),
        "path": request.path,
        "dialect": dialect(request),
        "status": 0 if gone else error.status,
        "outcome": Outcome.CLIENT_GONE if gone else outcome,
        "code": "" if gone else error.code,
        "client_gone": gone,
    }
    logs.info("request", **line)
    access_log.write(line)
