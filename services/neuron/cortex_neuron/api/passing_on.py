"""OpenAI's routes for models that a vLLM server answers for: the request goes on to it, its answer comes back.

Owns: admission, seats, keep-alives and the end of such an answer, as for any model. Does not own: what is in it: vLLM
judges parameters, and its refusals come back in our envelope (case W7). A client that goes away cancels the handler,
and with it the server's work (case S8). Called by: inference.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sanic import HTTPResponse, Request
from sanic.response import raw

from cortex_contracts.wire.errors import CortexError, InvalidRequest
from cortex_dialects.dialect import Dialect, error_event, keepalive
from cortex_dialects.translate import chat_error_to_error
from cortex_neuron.api import usage
from cortex_neuron.api.neuron import Neuron
from cortex_neuron.api.request_log import Outcome
from cortex_neuron.inference import admission
from cortex_neuron.inference.answer import Record
from cortex_neuron.residency.resident import Resident
from cortex_neuron.vllm import asked as asked_for
from cortex_neuron.vllm.answer_stream import AnswerStream
from cortex_neuron.vllm.asked import Asked
from cortex_neuron.vllm.usage import Tokens, read_document
from cortex_serving.request_body import check_media_type

if TYPE_CHECKING:  # an HTTP client comes with it, which a neuron without such servers starts without
    from cortex_neuron.vllm.passage import Passage

HARNESS = "vllm"
_KEEPALIVE_S = 0.9
_EVENT_STREAM = "text/event-stream"
_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions"})


def resident_of(request: Request, neuron: Neuron) -> Resident | None:
    """The model that is asked for, where such a server answers for it; None for all else."""
    residency = neuron.residency
    if not residency.has(HARNESS) or (name := asked_for.model_of(request.body)) is None:
        return None
    resident = residency.known(name)
    return resident if resident is not None and resident.harness == HARNESS else None


async def answer(request: Request, neuron: Neuron, resident: Resident, outcome: Outcome) -> HTTPResponse | None:
    """Pass it on. Raises CortexError while nothing has been sent."""
    from cortex_neuron.vllm.server import Server

    outcome.model = resident.model.id
    check_media_type(request)
    path = request.path.rstrip("/")
    if path not in _ROUTES:
        raise InvalidRequest(f"model {resident.model.id} is served by vLLM, for which gateways translate {path}")
    asked = asked_for.read(request.body)
    outcome.stream = asked.stream
    neuron.residency.check_open()
    serving = resident.lend()
    assert isinstance(serving, Server), "it was loaded with this harness"
    admission.check_seats(asked.num_choices, resident.seats_taken, neuron.seats)
    with resident.seats(asked.num_choices), serving.passage() as passage:
        outcome.record.submitted_at = passage.asked_at
        head = await passage.ask(path, asked.body)
        if head.status != 200:
            raise chat_error_to_error(head.status, await passage.rest(), head.headers.get("retry-after"))
        if head.content_type != _EVENT_STREAM:
            return await _whole(request, passage, outcome.record)
        stream = await _Stream.open(request, outcome, asked)
        await stream.pass_on(passage)
    # Seats are free before the client knows that its answer is over.
    await stream.close()
    return None


async def _whole(request: Request, passage: Passage, record: Record) -> HTTPResponse:
    body = await passage.rest()
    tokens, record.finish_reason = read_document(body)
    record.first_content_at = asyncio.get_running_loop().time()
    _note(record, tokens)
    return raw(body, headers=usage.headers(request, record), content_type="application/json")


class _Stream:
    """An answer that is streamed: to a client, or to the gateway."""

    def __init__(self, request: Request, outcome: Outcome, asked: Asked, response: HTTPResponse) -> None:
        self._wants_usage = usage.is_wanted(request)
        self._outcome, self._response = outcome, response
        self._answer = AnswerStream(asked.hides_usage)
        self._now = asyncio.get_running_loop().time

    @classmethod
    async def open(cls, request: Request, outcome: Outcome, asked: Asked) -> _Stream:
        """Send the head."""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        response = await request.respond(content_type=f"{_EVENT_STREAM}; charset=utf-8", headers=headers)
        assert isinstance(response, HTTPResponse)
        return cls(request, outcome, asked, response)

    async def pass_on(self, passage: Passage) -> None:
        """All but the end. What the stream broke with is told as an event (case S6)."""
        try:
            while self._answer.is_open:
                data = self._answer.feed(await self._piece(passage))
                self._time()
                if data:
                    await self._response.send(data)
        except CortexError as failure:
            self._answer.failure = failure
        _note(self._outcome.record, self._answer.tokens)
        self._outcome.record.finish_reason = self._answer.finish_reason

    async def close(self) -> None:
        """The end, and what it took."""
        failure = self._answer.failure
        self._outcome.error = failure
        told = usage.comment(self._outcome.record) if self._wants_usage else b""
        await self._response.send(told + (error_event(Dialect.OPENAI, failure) if failure else self._answer.closing))
        await self._response.eof()

    async def _piece(self, passage: Passage) -> bytes:
        """The next one; while it takes long the client is told that somebody is there (case S3)."""
        reading = asyncio.ensure_future(passage.piece())
        try:
            while not (await asyncio.wait({reading}, timeout=_KEEPALIVE_S))[0]:
                await self._response.send(keepalive(Dialect.OPENAI))
            return reading.result()
        finally:
            reading.cancel()

    def _time(self) -> None:
        record = self._outcome.record
        if self._answer.content_seen and record.first_content_at is None:
            record.first_content_at = self._now()
        if record.first_content_at is not None:
            record.decode_ms = (self._now() - record.first_content_at) * 1000


def _note(record: Record, tokens: Tokens) -> None:
    record.prompt_tokens, record.completion_tokens = tokens.prompt, tokens.completion
    record.cached_tokens = tokens.cached
    record.decoded_tokens = max(0, tokens.completion - 1)
