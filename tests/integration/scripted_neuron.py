"""A neuron without an engine: the real contract on a real socket, with faults that a test switches on.

Owns: what a neuron says and how it misbehaves. It keeps what it was sent, so that a test can look.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web

WORDS = ("Hel", "lo ", "wörld", " 🦙", "!")
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "cached_tokens": 2,
    "queue_ms": 0.5,
    "prefill_ms": 20.0,
    "decode_ms": 100.0,
    "finish_reason": "stop",
}


class Fault(StrEnum):
    """What goes wrong with inference."""

    NONE = "none"
    REFUSAL = "refusal"  # `refusal_status`, with an envelope
    BREAK = "break"  # the connection is cut in the middle
    STALL = "stall"  # silence in the middle
    HANG = "hang"  # not even a head
    NO_TERMINAL = "no_terminal"  # ends cleanly, without [DONE] or message_stop
    ERROR_EVENT = "error_event"  # an error, and then a [DONE] all the same
    ODD_CHUNKS = "odd_chunks"  # cut at every third byte, CRLF line ends
    SLOW = "slow"  # `pace_s` between events


@dataclass
class Sent:
    """One inference request, as it arrived."""

    path: str
    body: bytes
    headers: dict[str, str]


@dataclass
class ScriptedNeuron:
    """The switches, and what was seen. Models are rows of GET /models by id."""

    name: str
    port: int = 0
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: str = "ready"
    devices: list[dict[str, Any]] = field(default_factory=lambda: [{"index": 0, "total": 24000, "free": 20000}])
    device_kind: str = "cuda"
    harnesses: tuple[str, ...] = ("torch",)
    fault: Fault = Fault.NONE
    refusal_status: int = 503
    refusal_code: str = "queue_full"
    pace_s: float = 0.05
    poll_delay_s: float = 0.0
    poll_fails: bool = False
    load_s: float = 0.0
    load_fails: bool = False
    load_refusal: str = ""  # the code of a 503 to every load
    unload_s: float = 0.0
    sleep_host_memory_mb: int = 0
    sent: list[Sent] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)  # both of these in turn: "unload m", "sleep m for n"
    polls: int = 0
    discoveries: int = 0
    version: str = "1"
    left: int = 0  # requests whose client went away
    finished: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def has(self, model_id: str, status: str = "loaded", **fields: Any) -> None:
        """Give it a model."""
        row = {"id": model_id, "harness": "torch", "status": status, "devices": [0], "vram_used_mb": 1000}
        self.models[model_id] = {**row, **fields}

    async def start(self) -> None:
        """Listen; on the port it had, where it had one."""
        self._runner = web.AppRunner(self._application(), handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Be gone: connections are cut and new ones refused."""
        for connection in list(self._runner.server.connections if self._runner.server else ()):
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/report", self._report)
        app.router.add_get("/discovery", self._discovery)
        app.router.add_post("/models/load", self._load)
        app.router.add_post("/models/unload", self._unload)
        app.router.add_post("/models/pin", self._pin)
        app.router.add_post("/drain", self._drain)
        app.router.add_post("/undrain", self._undrain)
        app.router.add_get("/models/{id:.+}/endpoint", self._endpoint)
        app.router.add_get("/models/{id:.+}", self._one_model)
        app.router.add_post("/{path:v1/.+}", self._inference)
        return app

    async def _polled(self) -> None:
        self.polls += 1
        if self.poll_fails:
            raise web.HTTPInternalServerError
        if self.poll_delay_s:
            await asyncio.sleep(self.poll_delay_s)

    async def _report(self, _request: web.Request) -> web.Response:
        await self._polled()
        devices = [
            {"index": d["index"], "vram_used_mb": d["total"] - d["free"], "vram_free_mb": d["free"]}
            for d in self.devices
        ]
        models = [
            {"id": row["id"], "status": row["status"], "in_flight": row.get("in_flight", 0)}
            for row in self.models.values()
        ]
        health = {"state": self.state, "activation": {}, "devices": devices, "models": models, "version": self.version}
        return web.json_response({"health": health, "models": list(self.models.values())})

    async def _one_model(self, request: web.Request) -> web.Response:
        row = self.models.get(request.match_info["id"])
        if row is None:
            return web.json_response({"error": {"message": "unknown"}}, status=404)
        return web.json_response(row)

    async def _endpoint(self, _request: web.Request) -> web.Response:
        return web.json_response({"url": self.url})

    async def _discovery(self, _request: web.Request) -> web.Response:
        self.discoveries += 1
        devices = [{"index": d["index"], "name": "card", "vram_total_mb": d["total"]} for d in self.devices]
        host = {"hostname": self.name, "os": "Linux", "kernel": "6", "device_kind": self.device_kind}
        return web.json_response(
            {
                **host,
                "devices": devices,
                "harnesses": list(self.harnesses),
                "version": self.version,
                "sleep_host_memory_mb": self.sleep_host_memory_mb,
            }
        )

    async def _drain(self, _request: web.Request) -> web.Response:
        self.state = "draining"
        return web.json_response({"state": self.state})

    async def _undrain(self, _request: web.Request) -> web.Response:
        self.state = "ready"
        return web.json_response({"state": self.state})

    async def _load(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.loads.append(wanted)
        model_id = wanted["model_id"]
        self.orders.append(f"load {model_id}")
        if self.load_refusal:
            return self._refusal(request, self.load_refusal)
        self.has(model_id, "loading", progress={"phase": "weights", "fraction": 0.5})
        self._loading = asyncio.create_task(self._become_loaded(model_id))
        return web.json_response({"model_id": model_id, "status": "loading"})

    async def _become_loaded(self, model_id: str) -> None:
        await asyncio.sleep(self.load_s)
        if self.load_fails:
            self.has(model_id, "failed", failure={"kind": "load_failed", "message": "no such file"})
        else:
            self.has(model_id)

    async def _unload(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        model_id = wanted["model_id"]
        if wanted.get("if_idle") and self.models[model_id].get("in_flight"):
            return web.json_response({"error": {"message": "it is in use", "code": "model_busy"}}, status=409)
        level = wanted.get("level", "unload")
        self.unloads.append(model_id)
        newcomer = wanted.get("newcomer")
        self.orders.append(f"{level} {model_id}" + (f" for {newcomer}" if newcomer else ""))
        self.models[model_id]["status"] = "draining"
        await asyncio.sleep(self.unload_s)
        freed = self.models.pop(model_id)["vram_used_mb"]
        self.devices[0]["free"] += freed
        status = "sleeping" if level == "sleep" else "unloaded"
        self.has(model_id, status, vram_used_mb=0, host_memory_mb=900 if level == "sleep" else 0)
        return web.json_response({"model_id": model_id, "status": status})

    async def _pin(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        row = self.models.get(wanted["model_id"])
        if row is None:
            return web.json_response({"error": {"message": "unknown", "code": "model_not_found"}}, status=404)
        row["pinned"] = wanted["pinned"]
        return web.json_response({"model_id": row["id"], "status": row["status"]})

    async def _inference(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.sent.append(Sent(request.path, body, {k.lower(): v for k, v in request.headers.items()}))
        try:
            asked = json.loads(body)
        except ValueError:
            return web.json_response({"error": {"type": "invalid_request_error", "message": "no JSON"}}, status=400)
        try:
            if self.fault is Fault.HANG:
                await asyncio.sleep(3600)
            if self.fault is Fault.REFUSAL:
                return self._refusal(request)
            if self.models.get(asked["model"], {}).get("status", "loaded") != "loaded":
                return self._refusal(request, "unavailable")
            if not asked.get("stream"):
                return await self._whole(request, asked)
            return await self._stream(request, self._events(request.path, asked))
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.finished += 1

    def _refusal(self, request: web.Request, code: str = "") -> web.Response:
        detail = {"type": "server_error", "message": f"{self.name} says no", "code": code or self.refusal_code}
        body = {"error": detail} if "messages" not in request.path else {"type": "error", "error": detail}
        return web.json_response(body, status=self.refusal_status, headers={"Retry-After": "7"})

    async def _whole(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if self.fault is Fault.SLOW:
            await asyncio.sleep(self.pace_s)
        text = "".join(WORDS)
        if request.path.endswith("/count_tokens"):
            return web.json_response({"input_tokens": 7})
        answer: dict[str, Any]
        match request.path:
            case "/v1/messages":
                answer = {"id": "msg_1", "type": "message", "content": [{"type": "text", "text": text}]}
            case "/v1/responses":
                answer = _response("completed", [text])
            case _:
                answer = _chat_document(asked["model"], text)
        headers = {"X-Cortex-Usage": json.dumps(USAGE), "X-Request-Id": request.headers.get("X-Request-Id", "")}
        response = web.json_response({**answer, "model": asked["model"]}, headers=headers)
        if self.fault is not Fault.BREAK:
            return response
        head = web.StreamResponse(headers={"content-length": "1000", "content-type": "application/json"})
        await head.prepare(request)
        await head.write(b'{"id":')
        assert request.transport is not None
        request.transport.abort()
        return head

    def _events(self, path: str, asked: dict[str, Any]) -> list[bytes]:
        with_usage = f": cortex-usage {json.dumps(USAGE)}\n\n".encode()
        match path:
            case "/v1/messages":
                events, last = _messages_events(), 2
            case "/v1/responses":
                events, last = _responses_events(), 1
            case _:
                events, last = _chat_events(asked["model"]), 1
        match self.fault:
            case Fault.NO_TERMINAL:
                return events[:-last]
            case Fault.ERROR_EVENT:
                error = {"type": "error", "error": {"type": "api_error", "message": "boom", "code": "group_died"}}
                name = b"event: error\n" if path in ("/v1/messages", "/v1/responses") else b""
                return [*events[:3], name + b"data: " + json.dumps(error).encode() + b"\n\n", *events[-last:]]
        return [*events[:-last], with_usage, *events[-last:]]

    async def _stream(self, request: web.Request, events: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if self.fault is Fault.ODD_CHUNKS:
            whole = b"".join(events).replace(b"\n", b"\r\n")
            events = [whole[at : at + 3] for at in range(0, len(whole), 3)]
        for number, event in enumerate(events):
            if number == 3 and self.fault is Fault.BREAK:
                await response.write(event[: len(event) // 2])
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == 3 and self.fault is Fault.STALL:
                await asyncio.sleep(3600)
            await response.write(event)
            await asyncio.sleep(self.pace_s if self.fault is Fault.SLOW else 0)
        await response.write_eof()
        return response


def _chat_document(model: str, text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    counts = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": counts}


def _chat_events(model: str) -> list[bytes]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS)]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    chunks = [json.dumps({**frame, "choices": [choice]}, ensure_ascii=False) for choice in choices]
    return [*(f"data: {chunk}\n\n".encode() for chunk in chunks), b"data: [DONE]\n\n"]


def _messages_events() -> list[bytes]:
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None}
    usage = {"input_tokens": 7, "output_tokens": 0}
    bodies: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**start, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    bodies += [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}} for w in WORDS]
    bodies += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [f"event: {body['type']}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode() for body in bodies]


def _response(status: str, texts: list[str]) -> dict[str, Any]:
    output = [{"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": text}]} for text in texts]
    return {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status, "output": output}


def _responses_events() -> list[bytes]:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    bodies: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at, "part": {"type": "output_text", "text": "", "annotations": []}},
        *({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in WORDS),
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "status": "completed"}},
        {"type": "response.completed", "response": _response("completed", ["".join(WORDS)])},
    ]
    numbered = ({**body, "sequence_number": number} for number, body in enumerate(bodies))
    texts = (json.dumps(body, ensure_ascii=False, separators=(",", ":")) for body in numbered)
    return [f"event: {bodies[i]['type']}\ndata: {text}\n\n".encode() for i, text in enumerate(texts)]


@asynccontextmanager
async def scripted(name: str, *models: str) -> AsyncIterator[ScriptedNeuron]:
    """A neuron that has these models loaded."""
    neuron = ScriptedNeuron(name)
    for model_id in models:
        neuron.has(model_id)
    await neuron.start()
    try:
        yield neuron
    finally:
        await neuron.stop()
