"""One call answered: streamed or whole, passed through or translated.

Owns: which of these it is, and what a refusal or a failure becomes at each point. Called by: api/inference.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial

from sanic import HTTPResponse, Request

from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_contracts.wire.errors import CortexError
from cortex_dialects.dialect import Dialect
from cortex_dialects.projectors import Projector
from cortex_gateway.exchange import Exchange, Stage
from cortex_gateway.forwarding import stream, translated
from cortex_gateway.forwarding.attempts import FOREIGN_HARNESSES, Answer, Attempts, broken
from cortex_gateway.forwarding.call import Call, with_model
from cortex_gateway.forwarding.client_stream import EVENT_STREAM, ClientStream
from cortex_gateway.forwarding.response import Response, UpstreamFailure
from cortex_gateway.forwarding.upstream import USAGE_HEADER, passed_back
from cortex_gateway.routing.rules import Rules
from cortex_serving.application import as_cortex_error

_INLINE_BODY = 64 * 1024  # bytes; a larger one is translated in a thread


@dataclass(frozen=True, slots=True)
class Forwarder:
    """Answers calls by the rules and settings of one request."""

    attempts: Attempts

    async def answer(
        self, request: Request, call: Call, exchange: Exchange, rules: Rules, settings: GatewaySettings
    ) -> HTTPResponse | None:
        """The answer, or None where it was streamed. Raises CortexError while nothing has been sent."""
        if len(call.body) <= _INLINE_BODY:
            upstream_call, projector = _for_its_engine(call)
        else:
            upstream_call, projector = await asyncio.to_thread(_for_its_engine, call)
        ask = partial(self.attempts.answer, upstream_call, exchange, rules, settings)
        if not call.stream:
            answer = await ask()
            if answer.refusal is not None:
                return _refused(answer, exchange, projector is not None)
            return await _whole(answer.response, call, exchange, projector)
        client = ClientStream(request, call, exchange)
        try:
            answer = await client.while_waiting(ask(), Answer.close)
            if answer.refusal is not None:
                return await _refused_stream(client, answer, exchange, projector is not None)
            if answer.response.content_type != EVENT_STREAM and not client.begun:
                return await _whole(answer.response, call, exchange, projector)
            if projector is None:
                await stream.pass_on(client, answer.response, call, exchange, settings.idle_timeout_s)
            else:
                await translated.pass_on(client, answer.response, projector, exchange, settings.idle_timeout_s)
        except Exception as failure:
            if not client.begun:
                raise
            error = as_cortex_error(request, failure)
            _note(exchange, error.status, error.code)
            await client.fail(error)
            if not isinstance(failure, CortexError):
                raise
        return None


def _for_its_engine(call: Call) -> tuple[Call, Projector | None]:
    """The call as its engine takes it, and what translates its answer back, where that must be."""
    if call.model.harness not in FOREIGN_HARNESSES:
        return call, None
    if call.dialect is not Dialect.OPENAI:
        return translated.as_chat(call)
    if call.name == call.model.id:
        return call, None
    return replace(call, body=with_model(call.body, call.model.id)), None  # such an engine knows no aliases


async def _whole(response: Response, call: Call, exchange: Exchange, projector: Projector | None) -> HTTPResponse:
    try:
        with exchange.interruptible():
            body = await response.read()
    except UpstreamFailure as failure:
        raise broken(exchange.neuron, failure) from failure
    if projector is not None:
        body = translated.document(body, projector, exchange)
    if (usage := response.headers.get(USAGE_HEADER)) is not None:
        exchange.learn_usage(usage)
    elif call.model.harness in FOREIGN_HARNESSES and projector is None:
        exchange.learn_usage_of(body)
    exchange.status = response.status
    return HTTPResponse(body, response.status, passed_back(response.headers), response.headers.get("content-type"))


def _refused(answer: Answer, exchange: Exchange, is_translated: bool) -> HTTPResponse:
    """The neuron's own refusal: its status, words and Retry-After, as they are."""
    if is_translated:
        raise translated.refusal(answer)
    response = answer.response
    exchange.status = response.status
    exchange.failed(response.status, f"upstream_{response.status}")
    return HTTPResponse(
        answer.refusal, response.status, passed_back(response.headers), response.headers.get("content-type")
    )


async def _refused_stream(
    client: ClientStream, answer: Answer, exchange: Exchange, is_translated: bool
) -> HTTPResponse | None:
    if not client.begun:
        return _refused(answer, exchange, is_translated)
    if is_translated:
        raise translated.refusal(answer)
    _note(exchange, answer.response.status, f"upstream_{answer.response.status}")
    await client.fail_with(answer.refusal or b"")
    return None


def _note(exchange: Exchange, status: int, code: str) -> None:
    """A failure that the client is told inside a stream."""
    if exchange.stage is Stage.ASKED:
        exchange.move(Stage.ANSWERING)
    exchange.failed(status, code)
