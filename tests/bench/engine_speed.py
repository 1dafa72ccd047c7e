"""What the engine does with the demo model, asked of the neuron directly: TTFT, tok/s alone and at 8 and 32."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import load, processes

_WORDS = "time year people way day man thing woman life child world school state family group".split()  # noqa: SIM905


def _body(rng: random.Random, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    # These words are one token each in the demo model; the chat template adds about thirty.
    words = " ".join(rng.choice(_WORDS) for _ in range(max(1, prompt_tokens - 30)))
    return {
        "model": "smollm2",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def _measure(port: int) -> dict[str, float]:
    rng = random.Random(7)
    await load.run(port, [_body(rng, 128, 16)], 1)  # warm up
    single = await load.run(port, [_body(rng, 128, 128) for _ in range(3)], 1)
    prefill = await load.run(port, [_body(rng, 1024, 2) for _ in range(3)], 1)
    figures = {
        "ttft_128_s": load.percentile(single.first_s, 0.5),
        "single_stream_tok_s": single.decode_tokens_per_s(),
        "prefill_1024_tok_s": 1024 / load.percentile(prefill.first_s, 0.5),
    }
    for clients in (8, 32):
        crowd = await load.run(port, [_body(rng, 128, 64) for _ in range(clients)], clients)
        figures[f"throughput_{clients}_tok_s"] = 64 * clients / crowd.wall_s
        figures[f"ttft_worst_{clients}_s"] = max(crowd.first_s)
    return figures


def measure() -> dict[str, float]:
    """Start a neuron, load it, measure, stop it."""
    port = processes.free_port()
    with tempfile.TemporaryDirectory() as folder, processes.neuron(port, Path(folder)):
        return asyncio.run(_measure(port))
