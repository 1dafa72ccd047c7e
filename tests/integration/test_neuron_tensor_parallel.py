"""The daemon with the real engine over several ranks: answers, faults, and what is refused before a process starts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from neuron_process import COMPLETIONS, REAL, RunningNeuron, running_neuron, until
from tiny_model import write_tiny_model

GREEDY = {"prompt": [5, 6, 7, 8] * 4, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def neuron(tiny: Path) -> AsyncIterator[RunningNeuron]:
    """The tiny model by the number of its ranks."""
    models = [entry(f"tp{size}", tiny, size) for size in SIZES]
    async with running_neuron(models, REAL, cpu_threads=1, step_timeout_s=5.0, init_timeout_s=20.0) as started:
        yield started


def entry(name: str, source: Path, size: int, **more: Any) -> dict[str, Any]:
    shape = {"source": str(source), "vram_mb": 400, "context": 512, "tensor_parallel": size}
    return {"id": name, **shape, **more}


async def load(neuron: RunningNeuron, name: str) -> Any:
    answer = await neuron.post("/models/load", {"model_id": name})
    assert answer.status == 200, answer.text
    return await neuron.until_status("loaded", name, 60.0)


async def unload(neuron: RunningNeuron, name: str) -> None:
    assert (await neuron.post("/models/unload", {"model_id": name})).json["status"] == "unloaded"


async def tokens(neuron: RunningNeuron, name: str, **more: Any) -> list[int]:
    answer = await neuron.post(COMPLETIONS, {"model": name, **GREEDY, **more})
    assert answer.status == 200, answer.text
    return list(answer.json["choices"][0]["token_ids"])


def pids_of(neuron: RunningNeuron, name: str) -> list[int]:
    """Of its ranks, in their order."""
    loaded = [line for line in neuron.log() if line["event"] == "model_loaded" and line["model"] == name]
    return list(loaded[-1]["pids"])


async def test_a_model_answers_alike_on_one_two_and_four_ranks(neuron: RunningNeuron) -> None:
    """One process a rank, a list of requests at once, and unload is the end of them all (cases T8, T13)."""
    prompts = [[5, 6, 7, 8] * 4, [9] * 40, list(range(3, 100)), [11, 12]]
    seen = []
    for size in SIZES:
        row = await load(neuron, f"tp{size}")
        assert row["devices"] == [0]
        assert len(neuron.engines()) == size
        seen.append(await asyncio.gather(*(tokens(neuron, f"tp{size}", prompt=prompt) for prompt in prompts)))
        await unload(neuron, f"tp{size}")
        assert neuron.engines() == []
        assert list((neuron.folder / "run").iterdir()) == []
    assert seen[0] == seen[1] == seen[2]


async def test_a_request_that_is_left_in_a_step_leaves_the_ranks_in_step(neuron: RunningNeuron) -> None:
    """Cancelling never interrupts a collective; the next request is served by the same group (case T2)."""
    row = await load(neuron, "tp2")
    expected = await tokens(neuron, "tp2")
    for _ in range(20):
        leaving = [asyncio.create_task(tokens(neuron, "tp2", max_tokens=400, stream=False)) for _ in range(3)]
        await until(lambda: _running(neuron))
        for each in leaving:
            each.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    await neuron.until_idle("tp2")
    assert await tokens(neuron, "tp2") == expected
    assert (await neuron.row("tp2"))["loads"] == row["loads"]


async def _running(neuron: RunningNeuron) -> bool:
    return bool((await neuron.health("tp2"))["in_flight"])


@pytest.mark.parametrize("rank", range(4))
async def test_a_rank_that_is_killed_in_a_stream_is_named_and_the_model_recovers(
    neuron: RunningNeuron, rank: int
) -> None:
    """At once, by its sentinel, whichever rank it is: the others wait in a collective for ever (cases T3, T6)."""
    before = (await load(neuron, "tp4"))["loads"]
    pids = pids_of(neuron, "tp4")
    asked = asyncio.create_task(neuron.post(COMPLETIONS, {"model": "tp4", **GREEDY, "max_tokens": 400}))
    await until(lambda: _answers(neuron, "tp4"))
    os.kill(pids[rank], signal.SIGKILL)
    answer = await asked
    assert (answer.status, answer.json["error"]["code"]) == (500, "group_died")
    assert f"rank {rank} was killed by signal 9" in answer.json["error"]["message"]
    await until(lambda: _loaded_again(neuron, "tp4", before))
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert len(await tokens(neuron, "tp4")) == 24
    await unload(neuron, "tp4")


async def _answers(neuron: RunningNeuron, name: str) -> bool:
    return (await neuron.metrics()).get(f'neuron_sequences_running{{model="{name}"}}', 0.0) > 0


async def _loaded_again(neuron: RunningNeuron, name: str, before: int) -> bool:
    row = await neuron.row(name)
    return bool(row["status"] == "loaded" and row["loads"] > before)


async def test_an_idle_worker_that_is_stopped_is_found_out(neuron: RunningNeuron) -> None:
    """By the daemon's pings, before any request meets it (case T4)."""
    before = (await load(neuron, "tp2"))["loads"]
    os.kill(pids_of(neuron, "tp2")[1], signal.SIGSTOP)
    await until(lambda: _loaded_again(neuron, "tp2", before))
    died = [line for line in neuron.log() if line["event"] == "group_died"][-1]
    assert (died["kind"], died["rank"]) == ("ping_timeout", 1)
    await unload(neuron, "tp2")


async def test_what_cannot_be_divided_is_refused_before_a_process_starts(tiny: Path, tmp_path: Path) -> None:
    """With the figure, and with the numbers of ranks that would do (cases T10, T11)."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 9, "num_key_value_heads": 3}))
    async with running_neuron([entry("odd", folder, 2)], REAL) as neuron:
        refused = await neuron.post("/models/load", {"model_id": "odd"})
        assert refused.status >= 400
        message = "9 attention heads and 3 kv heads cannot be divided over 2 ranks; this model can run on 1"
        assert message in refused.json["error"]["message"]
        assert neuron.engines() == []
        row = await neuron.row("odd")
        assert row["status"] == "failed"


async def test_load_and_unload_leave_nothing_behind(neuron: RunningNeuron) -> None:
    """Twenty times over: no process, no descriptor, no file; `python -m tests.bench cycles` does a thousand."""
    daemon = psutil.Process(neuron.process.pid)
    for number in range(20):
        await load(neuron, "tp2")
        await tokens(neuron, "tp2", max_tokens=2)
        await unload(neuron, "tp2")
        if number == 4:
            before = daemon.num_fds()
    assert daemon.num_fds() <= before
    assert neuron.engines() == []
    assert list((neuron.folder / "run").iterdir()) == []
