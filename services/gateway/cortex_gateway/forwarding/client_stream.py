"""The client's side of a stream: headers when there is something to say, keep-alives while there is not.

Owns: when the answer begins (cases S3, S7, S10), and that a failure after that is an event and never a clean end (S6).
Does not own: what flows. Called by: stream.py, translated.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar, cast

from sanic import Request

from cortex_contracts.wire.errors import CortexError
from cortex_dialects.dialect import Dialect, envelope_event, error_event, keepalive
from cortex_dialects.generation import Generation
from cortex_dialects.projectors import messages_projector
from cortex_gateway.exchange import Exchange
from cortex_gateway.forwarding.call import Call

KEEPALIVE_S = 1.0
EVENT_STREAM = "text/event-stream"
_MOST_UNSENT = 16 * 1024  # bytes that the client has not taken yet; with more, nothing is put any more
_Result = TypeVar("_Result")


class Sink(Protocol):
    """Where a response's bytes go."""

    async def send(self, data: bytes | str | None = None, end_stream: bool | None = None) -> None: ...


class ClientStream:
    """One answer that is streamed. Not begun until `begin`, or until a wait has taken KEEPALIVE_S."""

    def __init__(self, request: Request, call: Call, exchange: Exchange) -> None:
        self._request, self._call, self._exchange = request, call, exchange
        self._sink: Sink | None = None
        self._head_is_out = False
        self.start_is_sent = False  # the dialect's first event, by us
        # A failure's event; who knows how far the answer has come puts another here.
        self.failure: Callable[[CortexError], bytes] = lambda error: error_event(call.dialect, error)

    @property
    def begun(self) -> bool:
        """Whether the status has gone out, so that a failure can only be an event."""
        return self._sink is not None

    async def begin(self, headers: Mapping[str, str] | None = None, content_type: str = EVENT_STREAM) -> None:
        """Send the head with what is written first. Does nothing where it is sent already."""
        if self._sink is not None:
            return
        head = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
        head.update(self._exchange.limit_headers)
        self._exchange.status = 200
        self._sink = await self._request.respond(status=200, headers=head, content_type=content_type)

    async def write(self, data: bytes) -> None:
        """Send whole events."""
        assert self._sink is not None, "begun"
        await self._sink.send(data)
        self._head_is_out = True

    def put(self, data: bytes) -> bool:
        """Send whole events at once, without Sanic's three coroutines for each; False where that cannot be: `write`."""
        transport = cast("asyncio.Transport | None", self._request.transport)
        if not self._head_is_out or transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > _MOST_UNSENT:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def fail(self, error: CortexError) -> None:
        """End the stream with an error event."""
        await self.write(self.failure(error))

    async def fail_with(self, body: bytes) -> None:
        """End the stream with a neuron's own error envelope."""
        await self.write(envelope_event(self._call.dialect, body))

    async def while_waiting(
        self, work: Coroutine[Any, Any, _Result], give_up: Callable[[_Result], None] = lambda result: None
    ) -> _Result:
        """The result of `work`; while it takes long the client is told every second that somebody is there.

        `give_up` gets a result that came too late: the client had left in the same moment.
        """
        task = asyncio.create_task(work)
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=KEEPALIVE_S)
                if done:
                    return task.result()
                await self._keep_alive()
        except BaseException:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                give_up(task.result())
            raise

    async def _keep_alive(self) -> None:
        if not self.begun:
            await self.begin()
            if self._call.dialect is Dialect.ANTHROPIC:
                self.start_is_sent = True
                await self.write(message_start(self._call))
        await self.write(keepalive(self._call.dialect))


def message_start(call: Call) -> bytes:
    """Anthropic's first event, before anybody has counted the prompt."""
    return messages_projector(Generation(model=call.name, prompts=()), call.request_id, 0, prompt_tokens=0).opening()
