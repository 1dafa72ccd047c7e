"""One inference request at a simulated neuron, and its answer as a gateway's own Response.

Owns: when its pieces come, and how an answer breaks: the part of a connection. Does not own: seats (neuron.py).
Called by: network.py.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from tests.sim.neuron import Life, Seat, SimNeuron

from cortex_contracts.wire.errors import CortexError, GroupDied
from cortex_gateway.forwarding.response import Response

_PREFILL_S = 0.05
_TOKEN_S = 0.02
_DONE = b"data: [DONE]\n\n"


class SimAnswer:
    """An answer whose head and pieces come from the neuron's task, in their time."""

    def __init__(self, neuron: SimNeuron, idle_s: float | None) -> None:
        self.response = Response(self, idle_s)
        self.task: asyncio.Task[None] | None = None
        self.why: CortexError | None = None
        self._neuron = neuron

    # ---- the gateway's side

    def pause(self) -> None:
        """A neuron here has little to say: it may say it."""

    def resume(self) -> None:
        """See pause."""

    def abort(self) -> None:
        """The gateway leaves: the neuron notices."""
        if self.task is not None:
            self.task.cancel()

    # ---- the neuron's side

    def begin(self, status: int, media_type: str, headers: dict[str, str] | None = None) -> None:
        self.response.status = status
        self.response.headers.update({"content-type": media_type, **(headers or {})})
        self.response.wake()

    def feed(self, piece: bytes) -> None:
        self.response.came(piece)
        self.response.wake()

    def end(self) -> None:
        self.response.ended()
        self.response.wake()

    def task_over(self, task: asyncio.Task[None]) -> None:
        """The neuron has done with it; where it was ended, before or after its first step, the connection is gone."""
        self._neuron.inside.discard(task)
        if task.cancelled():
            self._cut()

    def _cut(self) -> None:
        if not self.response.complete:
            self.response.lost("the connection was closed")

    def end_with(self, why: CortexError) -> None:
        """Its model is taken from it."""
        self.why = why
        if self.task is not None:
            self.task.cancel()

    def refuse(self, failure: CortexError) -> None:
        """A status, or an error event where that is sent already (case S6)."""
        told = {"message": failure.message, "type": "server_error", "code": failure.code}
        body = msgspec.json.encode({"error": told})
        if self.response.status:
            self.feed(b"data: " + body + b"\n\n")
        else:
            retry = {} if failure.retry_after_s is None else {"retry-after": str(failure.retry_after_s)}
            self.begin(failure.status, "application/json", retry)
            self.feed(body)
        self.end()


async def serve(neuron: SimNeuron, gateway: str, asked: dict[str, Any], answer: SimAnswer) -> None:
    """Answer one request. A neuron that hangs or is cut off sends nothing until it is there again."""
    try:
        await neuron.spend(0)
        async with neuron.seat(asked["model"], Seat(gateway, answer.end_with)):
            await neuron.spend(_PREFILL_S)
            if neuron.ill:
                raise GroupDied("every request ends so")
            await (_stream if asked.get("stream") else _whole)(neuron, asked, answer)
    except CortexError as failure:
        answer.refuse(failure)
    except asyncio.CancelledError:
        if answer.why is None or neuron.life is Life.DEAD:
            raise  # and the connection is cut
        answer.refuse(answer.why)


async def _whole(neuron: SimNeuron, asked: dict[str, Any], answer: SimAnswer) -> None:
    await neuron.spend(_TOKEN_S * asked["max_tokens"])
    await _connected(neuron)
    answer.begin(HTTPStatus.OK, "application/json")
    answer.feed(msgspec.json.encode({"object": "chat.completion", "model": asked["model"]}))
    answer.end()


async def _stream(neuron: SimNeuron, asked: dict[str, Any], answer: SimAnswer) -> None:
    await _connected(neuron)
    answer.begin(HTTPStatus.OK, "text/event-stream")
    for number in range(asked["max_tokens"]):
        await neuron.spend(_TOKEN_S)
        await _connected(neuron)
        delta = {"choices": [{"index": 0, "delta": {"content": str(number)}}]}
        answer.feed(b"data: " + msgspec.json.encode(delta) + b"\n\n")
    answer.feed(_DONE)
    answer.end()


async def _connected(neuron: SimNeuron) -> None:
    while neuron.life is Life.CUT_OFF:
        await neuron.changed.wait()
