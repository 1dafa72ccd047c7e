"""A thousand loads and unloads of a tiny model over two ranks: what is left of them, and how long each took."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

_TESTS = Path(__file__).resolve().parents[1]
_CYCLES, _WARM_UP = 1000, 50
_MIB = 1 << 20


def measure() -> dict[str, float]:
    """Growth is from the fiftieth cycle to the last."""
    sys.path[:0] = [str(_TESTS / "integration")]
    with tempfile.TemporaryDirectory() as folder:
        model = importlib.import_module("tiny_model").write_tiny_model(Path(folder))
        return asyncio.run(_measured(model))


async def _measured(model: Path) -> dict[str, float]:
    process = importlib.import_module("neuron_process")
    entry = {"id": "tiny", "source": str(model), "vram_mb": 400, "context": 512, "tensor_parallel": 2}
    async with process.running_neuron([entry], process.REAL, cpu_threads=1) as neuron:
        took: list[float] = []
        for number in range(_CYCLES):
            if number == _WARM_UP:
                before = _holds(neuron)
            began = time.monotonic()
            await _cycle(neuron)
            took.append(time.monotonic() - began)
        after = _holds(neuron)
        return {
            "cycles": float(_CYCLES),
            "cycle_s": statistics.median(took),
            "slowest_cycle_s": max(took),
            "processes_left": float(len(neuron.engines())),
            "files_left": float(len(list((neuron.folder / "run").iterdir()))),
            **{f"growth_{name}": after[name] - before[name] for name in before},
        }


async def _cycle(neuron: Any) -> None:
    await neuron.post("/models/load", {"model_id": "tiny"})
    await neuron.until_status("loaded", "tiny")
    body = {"model": "tiny", "prompt": [5, 6], "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    answer = await neuron.post("/v1/completions", body)
    assert answer.status == 200, answer.text
    unloaded = await neuron.post("/models/unload", {"model_id": "tiny"})
    assert unloaded.json["status"] == "unloaded", unloaded.text


def _holds(neuron: Any) -> dict[str, float]:
    """Of the daemon and its fork server together."""
    processes = [psutil.Process(neuron.process.pid), *neuron.family()]
    return {
        "descriptors": float(sum(each.num_fds() for each in processes)),
        "rss_mb": sum(each.memory_info().rss for each in processes) / _MIB,
        "threads": float(sum(each.num_threads() for each in processes)),
        "shared_memory_files": float(len(list(Path("/dev/shm").iterdir()))),
    }
