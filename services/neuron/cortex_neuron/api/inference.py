"""The inference surface: one path for all dialects, streamed or not (case S9).

Owns: reading a request, its admission before headers, its answer, and what is said of it afterwards. Does not own:
dialects (cortex_dialects), the engine's side (inference), or models that another server answers for (passing_on.py).
A client that goes away cancels the handler, and with it everything here (case S8). Called by: application.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from sanic import HTTPResponse, Request
from sanic.response import raw

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.inventory.fleet import Task
from cortex_contracts.wire.errors import InvalidRequest
from cortex_contracts.wire.openai import ModelCard, ModelList
from cortex_contracts.wire.tasks import check_task
from cortex_dialects.anthropic import parse_messages
from cortex_dialects.dialect import dialect_of
from cortex_dialects.events import Event, Failed
from cortex_dialects.generation import Generation
from cortex_dialects.openai import parse_chat, parse_completion
from cortex_dialects.projectors import (
    Projector,
    chat_projector,
    completion_projector,
    messages_projector,
    responses_projector,
)
from cortex_dialects.responses import parse_responses
from cortex_neuron.api import passing_on, trace, usage
from cortex_neuron.api.neuron import Neuron, of
from cortex_neuron.api.request_log import Outcome, write
from cortex_neuron.inference import answer
from cortex_neuron.inference.preparation import Prepared, prepare, seated
from cortex_neuron.protocol.priority import CLASSES
from cortex_neuron.residency.group_serving import GroupServing
from cortex_neuron.residency.resident import Resident
from cortex_serving import application
from cortex_serving.application import as_cortex_error, request_id
from cortex_serving.request_body import check_media_type

# Twice this is a little under the second that case S3 allows: output that shows nothing may come just before.
_KEEPALIVE_S = 0.45
_NO_KEEPALIVE_S = 60.0
_INLINE_BODY = 64 * 1024  # bytes; a larger one is parsed in a thread
_PRIORITY = "x-cortex-priority"

Events = list[Event]
Asked = TypeVar("Asked")
Answered = Callable[[Request, Neuron, Outcome], Awaitable[HTTPResponse | None]]


@dataclass(frozen=True, slots=True)
class Surface:
    """A route of the inference surface."""

    parse: Callable[[bytes], Generation]
    projector: Callable[[Prepared, str], Projector]


def _chat(prepared: Prepared, name: str) -> Projector:
    return chat_projector(prepared.generation, name, int(time.time()))


def _completion(prepared: Prepared, name: str) -> Projector:
    return completion_projector(prepared.generation, name, int(time.time()))


def _messages(prepared: Prepared, name: str) -> Projector:
    return messages_projector(prepared.generation, name, int(time.time()), prepared.prompt_tokens)


def _responses(prepared: Prepared, name: str) -> Projector:
    return responses_projector(prepared.generation, name, int(time.time()))


_CHAT = Surface(parse_chat, _chat)
_COMPLETION = Surface(parse_completion, _completion)
_MESSAGES = Surface(parse_messages, _messages)
_RESPONSES = Surface(parse_responses, _responses)


async def chat_completions(request: Request) -> HTTPResponse | None:
    """POST /v1/chat/completions"""
    return await _answer(request, _CHAT)


async def completions(request: Request) -> HTTPResponse | None:
    """POST /v1/completions"""
    return await _answer(request, _COMPLETION)


async def messages(request: Request) -> HTTPResponse | None:
    """POST /v1/messages"""
    return await _answer(request, _MESSAGES)


async def responses(request: Request) -> HTTPResponse | None:
    """POST /v1/responses"""
    return await _answer(request, _RESPONSES)


async def model_list(request: Request) -> HTTPResponse:
    """GET /v1/models: what this neuron's catalogue has; which of it is loaded is in /models."""
    neuron = of(request)
    cards = [ModelCard(id=model_id, created=neuron.started_at) for model_id in neuron.residency.residents]
    return raw(ModelList(data=cards).model_dump_json(), content_type="application/json")


async def model_card(request: Request, model_id: str) -> HTTPResponse:
    """GET /v1/models/{id}: one of them, by its id or an alias; all of them where a base URL has left a slash."""
    name = unquote(model_id).rstrip("/")
    if not name:
        return await model_list(request)
    neuron = of(request)
    model = neuron.residency.find(name).model
    return raw(ModelCard(id=model.id, created=neuron.started_at).model_dump_json(), content_type="application/json")


async def _answer(request: Request, surface: Surface) -> HTTPResponse | None:
    async def answered(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse | None:
        if (resident := passing_on.resident_of(request, neuron)) is not None:
            return await passing_on.answer(request, neuron, resident, outcome)
        generation = await parse_body(request, surface.parse)
        outcome.model, outcome.stream = generation.model, generation.stream
        return await _admitted(request, neuron, surface, generation, outcome)

    return await accounted(request, answered)


async def accounted(request: Request, answered: Answered) -> HTTPResponse | None:
    """Any request of this surface. Its end is logged and counted, whichever it is."""
    now = asyncio.get_running_loop().time
    outcome = Outcome(request_id(request), dialect_of(request.path), now())
    request.ctx.outcome = outcome
    neuron = of(request)
    if neuron.tracer is not None:
        outcome.span = neuron.tracer.serve(f"POST {request.path}", request.headers)
    try:
        return await answered(request, neuron, outcome)
    except asyncio.CancelledError:
        outcome.client_gone = True
        raise
    except Exception as failure:
        outcome.error = as_cortex_error(request, failure)
        outcome.status = outcome.error.status
        raise
    finally:
        write(outcome, now())
        neuron.metrics.count(outcome, now())
        if outcome.span is not None:
            trace.end(outcome.span, outcome, now())


async def accounted_whole(
    request: Request, answered: Callable[[Request, Neuron, Outcome], Awaitable[HTTPResponse]]
) -> HTTPResponse:
    """The same, where the answer is never streamed."""
    answer = await accounted(request, answered)
    assert answer is not None, "it is not streamed"
    return answer


async def answer_exception(request: Request, exception: BaseException) -> HTTPResponse:
    """What fails outside of this surface (no such route, half a body, no HTTP at all), with its own log line."""
    if not hasattr(request.ctx, "outcome"):
        now = asyncio.get_running_loop().time()
        outcome = Outcome(request_id(request), dialect_of(request.path), now)
        outcome.client_gone = isinstance(exception, asyncio.CancelledError)
        outcome.error = as_cortex_error(request, exception)
        outcome.status = outcome.error.status
        write(outcome, now)
    return await application.answer_exception(request, exception)


async def parse_body(request: Request, parse: Callable[[bytes], Asked]) -> Asked:
    """What a body asks for. Raises InvalidRequest's kin."""
    check_media_type(request)
    if len(request.body) <= _INLINE_BODY:
        return parse(request.body)
    return await asyncio.to_thread(parse, request.body)


async def _admitted(
    request: Request, neuron: Neuron, surface: Surface, generation: Generation, outcome: Outcome
) -> HTTPResponse | None:
    resident = neuron.residency.find(generation.model)
    outcome.model = resident.model.id
    neuron.residency.check_open()
    serving = of_ours(resident, "generate")
    writer = None
    with seated(generation, resident, neuron.seats):
        prepared = await prepare(generation, serving, priority(request))
        projector = surface.projector(prepared, outcome.request_id.removeprefix("req_"))
        idle_s = _KEEPALIVE_S if generation.stream else _NO_KEEPALIVE_S
        async with aclosing(answer.events(prepared, outcome.record, idle_s)) as batches:
            first = await anext(batches)  # submitted: what fails from here on fails after the headers
            if generation.stream:
                writer = await _Writer.open(request, projector, outcome)
                await writer.send(first)
                async for batch in batches:
                    await writer.send(batch)
            else:
                events = [*first, *[event async for batch in batches for event in batch]]
    # Seats are free before the client knows that its answer is over: whoever asks next finds them so.
    if writer is not None:
        await writer.close()
        return None
    return raw(
        projector.document(events), headers=usage.headers(request, outcome.record), content_type="application/json"
    )


def of_ours(resident: Resident, task: Task | None = None) -> GroupServing:
    """What serves it, where that is an engine of our own, and for this task where one is named.

    Raises the 503 of its state, or InvalidRequest's kin.
    """
    serving = resident.lend()
    if not isinstance(serving, GroupServing):
        raise InvalidRequest(
            f"model {resident.model.id} is served by {resident.harness}, which does not take this here"
        )
    if task is not None:
        check_task(resident.model.id, serving.task, task)
    return serving


def priority(request: Request) -> PriorityClass:
    """The class of the caller's key, as the gateway tells it."""
    asked = request.headers.get(_PRIORITY, "normal")
    for known in CLASSES:
        if asked == known:
            return known
    raise InvalidRequest(f"the header {_PRIORITY} is {asked!r}; it should be one of {', '.join(CLASSES)}")


class _Writer:
    """A stream to the client: bytes of events, keep-alives between them, the right end."""

    def __init__(self, request: Request, projector: Projector, outcome: Outcome, response: HTTPResponse) -> None:
        self._wants_usage = usage.is_wanted(request)
        self._projector = projector
        self._outcome = outcome
        self._response = response
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._now()

    @classmethod
    async def open(cls, request: Request, projector: Projector, outcome: Outcome) -> _Writer:
        """Send the headers, and what the dialect sends at once (case S7)."""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        response = await request.respond(content_type="text/event-stream; charset=utf-8", headers=headers)
        assert isinstance(response, HTTPResponse)
        writer = cls(request, projector, outcome, response)
        await writer._send(projector.opening())
        return writer

    async def send(self, batch: Events) -> None:
        """Send a batch's events, or a keep-alive when there has been nothing to send for too long (case S3)."""
        if batch and isinstance(batch[-1], Failed):
            self._outcome.error = batch[-1].error
            await self._send(self._usage())
        data = b"".join(map(self._projector.event, batch))
        if not data and (not batch or self._now() - self._sent_at >= _KEEPALIVE_S):
            data = self._projector.keepalive()
        await self._send(data)

    async def close(self) -> None:
        """End the stream; one that failed has had its last event (case S6)."""
        if self._outcome.error is None:
            await self._send(self._usage() + self._projector.closing())
        await self._response.eof()

    async def _send(self, data: bytes) -> None:
        if data:
            await self._response.send(data)
            self._sent_at = self._now()

    def _usage(self) -> bytes:
        return usage.comment(self._outcome.record) if self._wants_usage else b""
