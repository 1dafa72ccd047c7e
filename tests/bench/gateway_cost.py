"""What the gateway costs: its CPU seconds, and what it adds to a scripted neuron asked directly in the same run."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from tests.bench import load, processes
from tests.bench.scripted_neuron import MODEL

_QUESTION = [{"role": "user", "content": "Say in one sentence what a gateway does."}]
_LONG = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog.\n" * 1450}]  # 64 KB


def _plain(messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"model": MODEL, "messages": messages, "max_tokens": 16}


def _stream(chunks: int, interval_us: int) -> dict[str, Any]:
    return {"model": MODEL, "messages": _QUESTION, "stream": True, "max_tokens": chunks, "top_k": interval_us}


async def _cost(
    port: int, process: psutil.Process, bodies: list[dict[str, Any]], clients: int
) -> tuple[float, load.Measured]:
    before = processes.cpu_s(process)
    measured = await load.run(port, bodies, clients)
    return processes.cpu_s(process) - before, measured


async def _measure(gateway_port: int, neuron_port: int, gateway: psutil.Process) -> dict[str, float]:
    for port in (gateway_port, neuron_port):  # warm up
        await load.run(port, [_plain(_QUESTION)] * 500, 16)
    short_cpu, short = await _cost(gateway_port, gateway, [_plain(_QUESTION)] * 5000, 32)
    long_cpu, _ = await _cost(gateway_port, gateway, [_plain(_LONG)] * 2000, 16)
    paced_cpu, paced = await _cost(gateway_port, gateway, [_stream(200, 20_000)] * 64, 32)
    flat_cpu, flat = await _cost(gateway_port, gateway, [_stream(500, 0)] * 200, 32)
    alone = await load.run(gateway_port, [_plain(_QUESTION)] * 500, 1)
    direct = await load.run(neuron_port, [_plain(_QUESTION)] * 500, 1)
    first = await load.run(gateway_port, [_stream(4, 20_000)] * 50, 1)
    first_direct = await load.run(neuron_port, [_stream(4, 20_000)] * 50, 1)
    return {
        "cpu_s_per_1k_requests": short_cpu * 1000 / short.requests,
        "cpu_s_per_1k_requests_64k": long_cpu / 2,
        "cpu_s_per_100k_chunks_paced": paced_cpu * 100_000 / paced.chunks,
        "cpu_s_per_100k_chunks_flat": flat_cpu * 100_000 / flat.chunks,
        "requests_per_s": short.requests / short.wall_s,
        "added_p50_ms": 1000 * (load.percentile(alone.total_s, 0.5) - load.percentile(direct.total_s, 0.5)),
        "added_p99_ms": 1000 * (load.percentile(alone.total_s, 0.99) - load.percentile(direct.total_s, 0.99)),
        "added_ttft_ms": 1000 * (load.percentile(first.first_s, 0.5) - load.percentile(first_direct.first_s, 0.5)),
        "rss_mb": gateway.memory_info().rss / 2**20,
    }


def measure() -> dict[str, float]:
    """Start a scripted neuron and a real gateway, load both, stop them."""
    neuron_port, port = processes.free_port(), processes.free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.started(sys.executable, "-m", "tests.bench.scripted_neuron", str(neuron_port)),
    ):
        processes.wait_for(f"http://127.0.0.1:{neuron_port}/health", "ready", 10)
        with processes.gateway(port, neuron_port, Path(folder), MODEL) as gateway:
            return asyncio.run(_measure(port, neuron_port, gateway))
