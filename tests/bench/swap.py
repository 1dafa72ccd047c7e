"""The demo model from unloaded, and from asleep, to its first token; how long it takes to go; what each phase cost.

On a CPU, where weights stay in place: what is left of a wake is the KV cache and the first step. Medians, the files in
the page cache. `first_token_s` is from `POST /models/load` on a neuron that runs, polled each 20 ms.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
_ROUNDS = 5
_RANKS = (1, 3)  # what its three kv heads divide by
_PROMPT = {"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0, "ignore_eos": True}


def measure() -> dict[str, float]:
    """`tp1_…` by the kernels in one rank, `tp3_…` by transformers' modules in three."""
    sys.path[:0] = [str(_TESTS / "integration")]
    return asyncio.run(_measured())


async def _measured() -> dict[str, float]:
    process = importlib.import_module("neuron_process")
    source = str(process.DEMO_MODEL)
    entries = [
        {"id": f"tp{ranks}", "source": source, "vram_mb": 2600, "context": 4096, "tensor_parallel": ranks}
        for ranks in _RANKS
    ]
    seen: dict[str, list[float]] = defaultdict(list)
    async with process.running_neuron(entries, process.REAL, sleep_host_memory_mb=4000) as neuron:
        for entry in entries:
            await _first_token(neuron, entry["id"])  # what a daemon does only once
            await _gone(neuron, entry["id"])
            for _ in range(_ROUNDS):
                for name, value in (await _round(neuron, entry["id"])).items():
                    seen[f"{entry['id']}_{name}"].append(value)
    return {name: statistics.median(values) for name, values in seen.items()}


async def _round(neuron: Any, model: str) -> dict[str, float]:
    """Loaded, put to sleep, woken, unloaded."""
    figures = {f"unloaded_{name}": value for name, value in (await _first_token(neuron, model)).items()}
    figures["fall_asleep_s"] = await _gone(neuron, model, level="sleep")
    figures |= {f"sleeping_{name}": value for name, value in (await _first_token(neuron, model)).items()}
    figures["unload_s"] = await _gone(neuron, model)
    return figures


async def _first_token(neuron: Any, model: str) -> dict[str, float]:
    """Seconds to it, and of each phase of the load before it."""
    began = time.monotonic()
    asked = await neuron.post("/models/load", {"model_id": model})
    assert asked.status == 200, asked.text
    await neuron.until_status("loaded", model, 120.0)
    answer = await neuron.post("/v1/completions", {"model": model, **_PROMPT})
    assert answer.status == 200, answer.text
    took_s = time.monotonic() - began
    phases = neuron.logged("model_loaded")[-1]["phases"]
    return {"first_token_s": took_s, **{f"{phase}_s": seconds for phase, seconds in phases.items()}}


async def _gone(neuron: Any, model: str, **level: str) -> float:
    began = time.monotonic()
    answer = await neuron.post("/models/unload", {"model_id": model, **level})
    assert answer.json["status"] == ("sleeping" if level else "unloaded"), answer.text
    return time.monotonic() - began
