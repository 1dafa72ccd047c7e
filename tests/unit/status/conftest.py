"""Hosts as they look on the wire: answers of the contract's shape, and servers on real sockets that give them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

Answers = dict[str, Any]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Answers], Awaitable[int]]
Listen = Callable[[Handler], Awaitable[int]]


@pytest.fixture
def neuron_answers() -> Answers:
    """A neuron with two GPUs and the model qwen3-8b loaded over both, while another loads."""
    qwen = {"id": "qwen3-8b", "harness": "torch", "status": "loaded", "devices": [0, 1], "vram_used_mb": 18432}
    gemma = {"id": "gemma", "harness": "torch", "status": "loading", "progress": {"phase": "weights", "fraction": 0.43}}
    return {
        "/discovery": {
            "hostname": "rack1",
            "os": "Debian 13",
            "kernel": "6.12.0",
            "cuda_version": "13.0",
            "driver_version": "580.95",
            "driver_problem": None,
            "device_kind": "cuda",
            "devices": [
                {"index": 0, "name": "NVIDIA RTX 5090", "vram_total_mb": 32768, "compute_capability": "12.0"},
                {"index": 1, "name": "NVIDIA RTX 5090", "vram_total_mb": 32768, "compute_capability": "12.0"},
            ],
            "harnesses": ["torch"],
            "version": "0.1.0",
        },
        "/health": {
            "uptime_secs": 273900.5,
            "state": "ready",
            "activation": {"wanted": ["qwen3-8b"], "loaded": ["qwen3-8b"], "failed": []},
            "devices": [
                {"index": 0, "vram_used_mb": 9472, "vram_free_mb": 23296, "utilization_pct": 71, "temp_c": 64},
                {"index": 1, "vram_used_mb": 9216, "vram_free_mb": 23552, "utilization_pct": None, "temp_c": None},
            ],
            "models": [
                {"id": "qwen3-8b", "status": "loaded", "in_flight": 5, "queue_depth": 2, "kv_blocks_total": 4096,
                 "kv_blocks_free": 3001},
            ],
            "version": "0.1.0",
        },
        "/models": [
            {**qwen, "context": 32768, "loads": 1},
            gemma,
            {"id": "llama", "harness": "torch", "status": "unloaded"},
        ],
        "/version": {"version": "0.1.0", "protocol": 1, "release": "r1"},
    }  # fmt: skip


@pytest.fixture
def gateway_answers() -> Answers:
    """A gateway that knows the neuron `rack1` at http://10.0.0.11:13131 and three models."""
    neuron = {
        "name": "rack1", "url": "http://10.0.0.11:13131", "healthy": True, "state": "ready", "strikes": 0,
        "models": ["qwen3-8b"], "version": "0.1.0",
    }  # fmt: skip
    place = {"neuron": "rack1", "status": "loaded", "in_flight": 6}
    card = {"object": "model", "created": 1, "aliases": [], "context": None, "harness": "torch", "capabilities": []}
    return {
        "/health": {
            "status": "ok",
            "uptime_secs": 61,
            "version": "0.1.0",
            "in_flight": 5,
            "neurons": [neuron],
        },
        "/version": {"version": "0.1.0", "release": "r1", "files": {"cortex.toml": "5e1f"}, "awaits_restart": []},
        "/v1/models": {
            "object": "list",
            "data": [
                {**card, "id": "qwen3-8b", "status": "loaded", "locations": [place]},
                {**card, "id": "gemma", "status": "loading", "locations": []},
                {**card, "id": "llama", "status": "unloaded", "locations": []},
            ],
        },
    }


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts an HTTP server that gives these answers by path, and returns its port.

    The answers are read anew at each request, so a test may change them meanwhile.
    """
    async with AsyncExitStack() as stack:

        async def start(answers: Answers) -> int:
            async def answer(request: web.Request) -> web.Response:
                if request.path not in answers:
                    return web.json_response({"error": {"message": "no such path"}}, status=404)
                return web.Response(text=json.dumps(answers[request.path]), content_type="application/json")

            runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return int(runner.addresses[0][1])

        yield start


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Starts a bare TCP server, for hosts that speak no proper HTTP, and returns its port."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler) -> int:
            return await stack.enter_async_context(_listening(handler))

        yield start


@asynccontextmanager
async def _listening(handler: Handler) -> AsyncIterator[int]:
    over = asyncio.Event()

    async def until_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking = asyncio.ensure_future(handler(reader, writer))
        waiting = asyncio.ensure_future(over.wait())
        await asyncio.wait((talking, waiting), return_when=asyncio.FIRST_COMPLETED)
        for task in (talking, waiting):
            task.cancel()
        writer.close()

    server = await asyncio.start_server(until_over, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        over.set()
        server.close()
        await server.wait_closed()
