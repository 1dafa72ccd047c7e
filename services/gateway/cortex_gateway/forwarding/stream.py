"""Passing a neuron's event stream on to the client: whole events as they come, and never a silent end.

Owns: the path of every chunk, and how a stream ends (cases S2, S6, S8). Does not own: what is in a chunk (watch.py),
the head and keep-alives (client_stream.py), retries (attempts.py). Called by: forwarder.py.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cortex_dialects.dialect import error_event
from cortex_gateway.exchange import Exchange, Stage
from cortex_gateway.forwarding.attempts import FOREIGN_HARNESSES, broken, idle
from cortex_gateway.forwarding.call import Call
from cortex_gateway.forwarding.client_stream import ClientStream
from cortex_gateway.forwarding.response import Response, Silent, UpstreamFailure
from cortex_gateway.forwarding.upstream import passed_back
from cortex_gateway.forwarding.watch import Ending, StreamWatch

_END_OF_BODY_S = 0.5  # after the last event


async def pass_on(
    client: ClientStream, response: Response, call: Call, exchange: Exchange, idle_timeout_s: float
) -> None:
    """Relay the stream to its end. Raises the CortexError that it broke with, unless the neuron said so itself."""
    watch = StreamWatch(call.dialect, drop_start=client.start_is_sent)
    client.failure = lambda error: error_event(call.dialect, error, watch.next_number)
    # A foreign engine sends nothing during prefill, so there the gateway keeps the client's hopes up (case S3).
    patient = call.model.harness in FOREIGN_HARNESSES
    try:
        await client.begin(passed_back(response.headers), response.headers["content-type"])
        exchange.move(Stage.ANSWERING)
        with exchange.interruptible():
            await _relay(client, response, watch, exchange, patient)
    except Silent as failure:
        raise idle(exchange.neuron, idle_timeout_s) from failure
    except UpstreamFailure as failure:
        raise broken(exchange.neuron, failure) from failure
    finally:
        response.close()  # where it is not over, this tells the neuron (case S8)
        if watch.usage is not None:
            exchange.learn_usage(watch.usage)
    if watch.ending is Ending.FAILED:
        exchange.failed(500, watch.error_code)


async def _relay(
    client: ClientStream, response: Response, watch: StreamWatch, exchange: Exchange, patient: bool
) -> None:
    unsent = b""

    def pass_at_once(chunk: bytes) -> bool:
        nonlocal unsent
        data = _seen(watch, chunk, exchange)
        if data and not client.put(data):
            unsent = data
        return not unsent and watch.ending is Ending.OPEN

    while watch.ending is Ending.OPEN:
        if patient and not watch.content_seen:
            unsent = _seen(watch, await client.while_waiting(response.piece()), exchange)
        else:
            await response.pour(pass_at_once)
        if response.all_taken and watch.ending is Ending.OPEN:
            unsent += watch.finish()
        if unsent:
            await client.write(unsent)
            unsent = b""
        if response.all_taken and watch.ending is Ending.OPEN:
            raise broken(exchange.neuron, None)
    if watch.ending is Ending.COMPLETE and not response.complete:
        with suppress(TimeoutError, UpstreamFailure):
            async with asyncio.timeout(_END_OF_BODY_S):
                await response.read()


def _seen(watch: StreamWatch, chunk: bytes, exchange: Exchange) -> bytes:
    data = watch.feed(chunk)
    exchange.events += data.count(b"data:")
    if exchange.first_content_s is None and watch.content_seen:
        exchange.content()
    return data
