"""/v1/messages and /v1/responses for engines that speak only chat: the request as a chat request, the answer back.

Owns: the round trip, streamed or not. Does not own: the translation itself (cortex_dialects). Called by: forwarder.py.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

from cortex_contracts.wire.errors import CortexError, InvalidRequest
from cortex_dialects.anthropic import messages_to_chat, omits_thinking
from cortex_dialects.events import Event, Failed, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from cortex_dialects.generation import Generation
from cortex_dialects.json_body import parse_object
from cortex_dialects.projectors import Projector, messages_projector, responses_projector
from cortex_dialects.responses import responses_to_chat
from cortex_dialects.translate import ChatStreamReader, chat_document_to_events, chat_error_to_error
from cortex_gateway import exchange as exchanges
from cortex_gateway.exchange import Exchange, Stage
from cortex_gateway.forwarding.attempts import Answer, broken, idle
from cortex_gateway.forwarding.call import Call
from cortex_gateway.forwarding.client_stream import ClientStream
from cortex_gateway.forwarding.response import Response, Silent, UpstreamFailure

_CONTENT = (TextDelta, ReasoningDelta, ToolCallDelta)


def as_chat(call: Call) -> tuple[Call, Projector]:
    """The call that the engine is asked, and what makes its answer one of the client's. Raises InvalidRequest's kin."""
    body = parse_object(call.body)
    generation = Generation(model=call.name, prompts=())
    projector: Projector
    if call.path == "/v1/responses":
        chat, repeated = responses_to_chat(body)
        name = call.request_id.removeprefix("req_")
        projector = responses_projector(replace(generation, repeated=repeated), name, int(time.time()))
    elif call.path == "/v1/messages":
        chat, shown = messages_to_chat(body), not omits_thinking(call.body)
        projector = messages_projector(replace(generation, show_reasoning=shown), call.request_id, 0, prompt_tokens=0)
    else:
        raise InvalidRequest(f"{call.path} is not offered for {call.name!r}: its engine cannot count tokens")
    asked = json.dumps({**chat, "model": call.model.id}, ensure_ascii=False).encode()
    headers = {name: value for name, value in call.headers.items() if not name.startswith("anthropic-")}
    return replace(call, path="/v1/chat/completions", body=asked, headers=headers), projector


def refusal(answer: Answer) -> CortexError:
    """The engine's non-2xx answer as an error of ours; Retry-After survives (case W7)."""
    response = answer.response
    return chat_error_to_error(response.status, answer.refusal or b"", response.headers.get("retry-after"))


def document(body: bytes, projector: Projector, exchange: Exchange) -> bytes:
    """A chat completion as the client's kind of answer. Raises the CortexError that it holds."""
    events = chat_document_to_events(body)
    _learn(events, exchange)
    return projector.document(events)


async def pass_on(
    client: ClientStream, response: Response, projector: Projector, exchange: Exchange, idle_timeout_s: float
) -> None:
    """Relay the chat stream as the client's kind of stream. Raises the CortexError that it broke with."""
    try:
        await client.begin()
        exchange.move(Stage.ANSWERING)
        client.failure = projector.failure
        if not client.start_is_sent:
            await client.write(projector.opening())
        with exchange.interruptible():
            await _relay(client, response, projector, exchange)
    except Silent as failure:
        raise idle(exchange.neuron, idle_timeout_s) from failure
    except UpstreamFailure as failure:
        raise broken(exchange.neuron, failure) from failure
    finally:
        response.close()


async def _relay(client: ClientStream, response: Response, projector: Projector, exchange: Exchange) -> None:
    reader = ChatStreamReader()
    done = False
    while not done:
        # Such an engine is silent during prefill, so here the gateway sends the keep-alives (case S3).
        chunk = await (client.while_waiting(response.piece()) if exchange.first_content_s is None else response.piece())
        events = reader.feed(chunk) if chunk else reader.end()
        _learn(events, exchange)
        if failed := next((event for event in events if isinstance(event, Failed)), None):
            raise failed.error
        done = not chunk or any(isinstance(event, Usage) for event in events)
        data = b"".join(map(projector.event, events)) + (projector.closing() if done else b"")
        if data:
            await client.write(data)
            exchange.events += data.count(b"data:")
        if exchange.first_content_s is None and any(isinstance(event, _CONTENT) for event in events):
            exchange.content()


def _learn(events: list[Event], exchange: Exchange) -> None:
    for event in events:
        if isinstance(event, Usage):
            reason = exchange.usage.finish_reason if exchange.usage else None
            exchange.usage = exchanges.Usage(
                event.prompt_tokens, event.completion_tokens, event.cached_tokens, finish_reason=reason
            )
        elif isinstance(event, Finished):
            exchange.usage = exchanges.Usage(finish_reason=event.reason)
