"""A neuron without a model, for measuring what the gateway costs: it answers its contract, and canned completions.

    python -m tests.bench.scripted_neuron PORT

The body chooses: `"stream": true` gives `max_tokens` content chunks; `"top_k": N` spaces them N microseconds apart.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, cast

import httptools
import uvloop

MODEL = "bench"
_HEALTH = {
    "uptime_secs": 1.0,
    "state": "ready",
    "activation": {},
    "devices": [{"index": 0, "vram_used_mb": 0, "vram_free_mb": 1000}],
    "models": [{"id": MODEL, "status": "loaded"}],
    "version": "bench",
}
_MODELS = [{"id": MODEL, "harness": "torch", "status": "loaded", "devices": [0], "vram_used_mb": 1, "context": 8192}]
_DISCOVERY = {
    "hostname": "bench",
    "os": "Linux",
    "kernel": "0",
    "device_kind": "cpu",
    "devices": [{"index": 0, "name": "cpu", "vram_total_mb": 1000}],
    "harnesses": ["torch"],
    "version": "bench",
}
_GETS = {
    "/health": _HEALTH,
    "/models": _MODELS,
    "/discovery": _DISCOVERY,
    "/version": {"version": "bench", "protocol": 1},
    f"/models/{MODEL}": _MODELS[0],
}
_ANSWER = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 0,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}
_USAGE = json.dumps({"prompt_tokens": 9, "completion_tokens": 3, "finish_reason": "stop"})


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    body = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_ROLE = _framed(_chunk({"role": "assistant", "content": ""}))
_CONTENT = _framed(_chunk({"content": " word"}))
_END = _framed(_chunk({}, "stop")) + _framed(f": cortex-usage {_USAGE}\n\n".encode()) + _framed(b"data: [DONE]\n\n")
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _document(payload: Any, extra: str = "") -> bytes:
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Neuron(asyncio.Protocol):
    """One connection; requests on it come one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.tasks = cast(asyncio.Transport, transport), set[asyncio.Task[None]]()
        self._fresh()

    def _fresh(self) -> None:
        self.parser, self.path, self.body = httptools.HttpRequestParser(self), b"", bytearray()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()

    def on_url(self, url: bytes) -> None:
        self.path, self.body = url, bytearray()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        known = _GETS.get(self.path.decode())
        if known is not None:
            self.transport.write(_document(known))
            return
        asked = json.loads(self.body)
        if not asked.get("stream"):
            self.transport.write(_document(_ANSWER, f"x-cortex-usage: {_USAGE}\r\n"))
            return
        task = asyncio.get_running_loop().create_task(self._stream(asked["max_tokens"], asked.get("top_k", 0) / 1e6))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _stream(self, chunks: int, interval_s: float) -> None:
        self.transport.write(_STREAM_HEAD + _ROLE)
        for _ in range(chunks):
            await asyncio.sleep(interval_s)
            self.transport.write(_CONTENT)
        self.transport.write(_END + b"0\r\n\r\n")


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Neuron, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
