"""Many neurons in one process, each at a port of its own, that answer polls and nothing else.

    python -m tests.bench.many_neurons COUNT idle|changing

Prints its ports as one JSON list, then serves until killed. Eight declared models a neuron, two of them loaded.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from typing import Any, cast

import httptools
import uvloop

MODELS = [f"maker/model-{number}" for number in range(8)]
_VERSION = "bench"
_DEVICES = range(2)
_serial = itertools.count()


def _report(free_mb: int) -> dict[str, Any]:
    """As a neuron's /report with its free memory at `free_mb`."""
    statuses = ["loaded" if number < len(_DEVICES) else "unloaded" for number in range(len(MODELS))]
    zero = dict.fromkeys(("in_flight", "queue_depth", "kv_blocks_total", "kv_blocks_free"), 0)
    devices = [
        {"index": index, "vram_used_mb": 24_000 - free_mb, "vram_free_mb": free_mb, "utilization_pct": 0, "temp_c": 41}
        for index in _DEVICES
    ]
    none = dict.fromkeys(("progress", "failure", "retry_after_s"))
    rows = [
        {
            "id": model_id, "harness": "torch", "status": status, "devices": [number] if status == "loaded" else [],
            "vram_used_mb": 9000, "context": 8192, **none, "last_used_at": 1.7e9, "loads": 1, "pinned": False,
        }
        for number, (model_id, status) in enumerate(zip(MODELS, statuses, strict=True))
    ]  # fmt: skip
    health = {
        "state": "ready",
        "activation": {"wanted": MODELS[:1], "loaded": MODELS[:1], "failed": []},
        "devices": devices,
        "models": [
            {"id": model_id, "status": status, **zero} for model_id, status in zip(MODELS, statuses, strict=True)
        ],
        "version": _VERSION,
    }
    return {"health": health, "models": rows}


_DISCOVERY = {
    "hostname": "bench",
    "os": "Linux",
    "kernel": "0",
    "device_kind": "cuda",
    "devices": [{"index": index, "name": "card", "vram_total_mb": 24_000} for index in _DEVICES],
    "harnesses": ["torch"],
    "version": _VERSION,
}


def _document(payload: Any) -> bytes:
    body = json.dumps(payload, separators=(",", ":")).encode()
    # As Sanic's: every answer has an id of its own.
    return b"HTTP/1.1 200 OK\r\nx-request-id: req_%032d\r\ncontent-length: %d\r\n\r\n%b" % (
        next(_serial),
        len(body),
        body,
    )


class Neuron(asyncio.Protocol):
    """One connection."""

    reports: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        if self._path == b"/report":
            self._transport.write(self.reports[next(_serial) % len(self.reports)])
        else:
            self._transport.write(_document(_DISCOVERY))


async def main(count: int, changing: bool) -> None:
    """Serve until killed."""
    # 997 is a prime: no neuron gives one answer twice in a row, however many polls come between.
    Neuron.reports = [_document(_report(14_000 + number)) for number in range(997 if changing else 1)]
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Neuron, "127.0.0.1", 0) for _ in range(count)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2] == "changing"))
