"""The daemon's models fall asleep, wake, die asleep, and make room for each other: with scripted and real engines."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import fake_nvml
import pytest
from neuron_process import COMPLETIONS, REAL, RunningNeuron, running_neuron, until, write_models
from scripted_model import write_model
from tiny_model import write_tiny_model

LOAD, UNLOAD = "/models/load", "/models/unload"
GREEDY = {"prompt": [5, 6, 7, 8] * 4, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "return_token_ids": True}


def entry(path: Path, model_id: str, **more: Any) -> dict[str, Any]:
    return {"id": model_id, "source": str(path), **more}


async def load(neuron: RunningNeuron, model: str) -> None:
    answer = await neuron.post(LOAD, {"model_id": model})
    assert answer.status == 200, answer.text
    await neuron.until_status("loaded", model, 60.0)


async def put_to_sleep(neuron: RunningNeuron, model: str, **more: str) -> str:
    """What became of it."""
    answer = await neuron.post(UNLOAD, {"model_id": model, "level": "sleep", **more})
    assert answer.status == 200, answer.text
    return str(answer.json["status"])


async def test_a_model_sleeps_in_its_processes_and_wakes_in_them(tmp_path: Path) -> None:
    """Asleep it takes host memory and no device's, answers 503, and an ordinary unload ends it; a load wakes it."""
    model = write_model(tmp_path / "echo", weights_mb=5)
    async with running_neuron([entry(model, "echo")], sleep_host_memory_mb=8) as neuron:
        assert (await neuron.get("/discovery"))["sleep_host_memory_mb"] == 8
        await load(neuron, "echo")
        engines = neuron.engines()
        assert await put_to_sleep(neuron, "echo") == "sleeping"
        assert neuron.engines() == engines
        row = await neuron.row()
        assert (row["status"], row["vram_used_mb"], row["host_memory_mb"], row["devices"]) == ("sleeping", 0, 5, [0])
        assert (await neuron.metrics())['neuron_model_host_memory_mb{model="echo"}'] == 5
        refused = await neuron.chat({"reply": "x"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "unavailable")
        assert await put_to_sleep(neuron, "echo") == "sleeping"
        await load(neuron, "echo")
        assert neuron.engines() == engines
        row = await neuron.row()
        assert (row["host_memory_mb"], row["loads"]) == (0, 2)
        assert (await neuron.chat({"reply": "x"})).status == 200
        assert await put_to_sleep(neuron, "echo") == "sleeping"
        assert (await neuron.post(UNLOAD, {"model_id": "echo"})).json["status"] == "unloaded"
        assert neuron.engines() == []


async def test_the_longest_asleep_makes_room_and_what_has_none_is_unloaded(tmp_path: Path) -> None:
    """The budget holds for all that sleep together, and a neuron without one has none that sleep. Another goes than the
    one that is to be woken next."""
    sizes = {"one": 4, "two": 4, "three": 4, "large": 9}
    models = [entry(write_model(tmp_path / name, weights_mb=mb), name) for name, mb in sizes.items()]
    async with running_neuron(models, sleep_host_memory_mb=8) as neuron:
        for name in sizes:
            await load(neuron, name)
        assert [await put_to_sleep(neuron, name) for name in ("two", "one", "three")] == ["sleeping"] * 3
        assert await put_to_sleep(neuron, "large") == "unloaded"
        statuses = {row["id"]: row["status"] for row in await neuron.get("/models")}
        assert statuses == {"one": "sleeping", "two": "unloaded", "three": "sleeping", "large": "unloaded"}
        assert len(neuron.engines()) == 2
        await load(neuron, "two")
        assert await put_to_sleep(neuron, "two", newcomer="one") == "sleeping"
        statuses = {row["id"]: row["status"] for row in await neuron.get("/models")}
        assert (statuses["one"], statuses["three"]) == ("sleeping", "unloaded")
    async with running_neuron(models[:1]) as neuron:
        await load(neuron, "one")
        assert await put_to_sleep(neuron, "one") == "unloaded"
        assert neuron.engines() == []


async def test_an_unload_that_comes_while_a_model_falls_asleep_is_kept_to(tmp_path: Path) -> None:
    """Both are told that it is unloaded, whoever came first; a load that comes meanwhile is told to come again."""
    model = write_model(tmp_path / "echo", sleep_s=0.5)
    async with running_neuron([entry(model, "echo")], sleep_host_memory_mb=100) as neuron:
        await load(neuron, "echo")
        falling = asyncio.create_task(put_to_sleep(neuron, "echo"))
        await neuron.until_status("draining")
        refused = await neuron.post(LOAD, {"model_id": "echo"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "draining")
        assert (await neuron.post(UNLOAD, {"model_id": "echo"})).json["status"] == "unloaded"
        assert await falling == "unloaded"
        assert neuron.engines() == []


async def test_a_load_that_asks_for_what_does_not_sleep_is_one_from_the_files(tmp_path: Path) -> None:
    """Here rounded otherwise than it fell asleep: the old process ends first."""
    model = write_model(tmp_path / "echo")
    async with running_neuron([entry(model, "echo")], sleep_host_memory_mb=100) as neuron:
        await load(neuron, "echo")
        assert await put_to_sleep(neuron, "echo") == "sleeping"
        answer = await neuron.post(LOAD, {"model_id": "echo", "quant": "int8"})
        assert answer.status == 200, answer.text
        await neuron.until_status("loaded")
        assert [line["woken"] for line in neuron.logged("model_loaded")] == [False, False]
        assert len(neuron.engines()) == 1


async def test_on_gpus_a_model_wakes_where_it_sleeps_unless_another_device_is_asked_for(tmp_path: Path) -> None:
    """Its weights go back to the device that they came from."""
    model = write_model(tmp_path / "echo")
    environment = fake_nvml.environment(fake_nvml.build(tmp_path), GPUS=2)
    async with running_neuron(
        [entry(model, "echo")], None, environment, devices="all", sleep_host_memory_mb=100
    ) as neuron:
        woken = []
        for asked in ({"devices": [1]}, {}, {"devices": [1]}, {"devices": [0]}):
            assert (await neuron.post(LOAD, {"model_id": "echo", **asked})).status == 200
            row = await neuron.until_status("loaded")
            woken.append((row["devices"], neuron.logged("model_loaded")[-1]["woken"]))
            assert await put_to_sleep(neuron, "echo") == "sleeping"
        assert woken == [([1], False), ([1], True), ([1], True), ([0], False)]


async def test_a_daemon_that_ends_ends_what_sleeps(tmp_path: Path) -> None:
    """No process is left of it."""
    async with running_neuron([entry(write_model(tmp_path / "echo"), "echo")], sleep_host_memory_mb=100) as neuron:
        await load(neuron, "echo")
        assert await put_to_sleep(neuron, "echo") == "sleeping"
        engines = neuron.engines()
        assert await neuron.terminate() == 0
        assert not any(engine.is_running() for engine in engines)


async def test_one_that_cannot_sleep_is_unloaded_and_one_that_cannot_wake_has_failed(tmp_path: Path) -> None:
    """Nothing is left of either, and the next load is one from the files."""
    sleepless = write_model(tmp_path / "sleepless", sleep="error")
    sleeper = write_model(tmp_path / "sleeper", wake="error")
    async with running_neuron([entry(sleepless, "a"), entry(sleeper, "b")], sleep_host_memory_mb=100) as neuron:
        await load(neuron, "a")
        assert await put_to_sleep(neuron, "a") == "unloaded"
        assert [line["kind"] for line in neuron.logged("sleep_failed")] == ["out_of_memory"]
        await load(neuron, "b")
        assert await put_to_sleep(neuron, "b") == "sleeping"
        await neuron.post(LOAD, {"model_id": "b"})
        assert (await neuron.until_status("failed", "b"))["failure"]["kind"] == "out_of_memory"
        assert neuron.engines() == []
        await load(neuron, "b")


async def test_one_that_dies_asleep_is_unloaded_and_says_why(tmp_path: Path) -> None:
    """Nobody waits for it: it is not started again until it is asked for."""
    model = write_model(tmp_path / "echo")
    async with running_neuron([entry(model, "echo")], sleep_host_memory_mb=100) as neuron:
        await load(neuron, "echo")
        assert await put_to_sleep(neuron, "echo") == "sleeping"
        os.kill(neuron.engines()[0].pid, signal.SIGKILL)
        row = await neuron.until_status("unloaded")
        assert (row["failure"]["kind"], row["host_memory_mb"]) == ("rank_died", 0)
        assert (await neuron.metrics())['neuron_group_deaths_total{kind="rank_died",model="echo"}'] == 1
        await load(neuron, "echo")
        assert (await neuron.row())["failure"] is None


async def test_an_entry_that_changes_or_goes_ends_its_sleep(tmp_path: Path) -> None:
    """What sleeps was started with the old entry, and is not wanted now: it is not loaded again for that."""
    model = write_model(tmp_path / "echo")
    both = [entry(model, "changes"), entry(model, "goes")]
    async with running_neuron(both, sleep_host_memory_mb=100) as neuron:
        for name in ("changes", "goes"):
            await load(neuron, name)
            assert await put_to_sleep(neuron, name) == "sleeping"
        write_models(neuron.folder, [entry(model, "changes", context=512)])
        await neuron.reload()
        await neuron.until_status("unloaded", "changes")
        assert [row["id"] for row in await neuron.get("/models")] == ["changes"]


@pytest.mark.parametrize("ranks", [1, 2])
async def test_a_model_that_was_woken_answers_as_before(ranks: int, tmp_path: Path) -> None:
    """Its KV cache is given back and made anew, in the same processes; greedy answers are the same, token by token."""
    tiny = write_tiny_model(tmp_path)
    model = entry(tiny, "tiny", vram_mb=400, context=512, tensor_parallel=ranks)
    async with running_neuron([model], REAL, cpu_threads=1, sleep_host_memory_mb=100) as neuron:
        await load(neuron, "tiny")
        engines, before = neuron.engines(), await _tokens(neuron)
        assert await put_to_sleep(neuron, "tiny") == "sleeping"
        assert (await neuron.row("tiny"))["host_memory_mb"] > 0
        await load(neuron, "tiny")
        assert await _tokens(neuron) == before
        assert neuron.engines() == engines
        read, woken = neuron.logged("model_loaded")
        assert (read["woken"], [*woken["phases"]]) == (False, ["start", "weights", "cache"])
        assert sum(woken["phases"].values()) == pytest.approx(woken["seconds"], abs=0.01)
        os.kill(engines[-1].pid, signal.SIGKILL)
        await until(lambda: _loaded_for(neuron, 3), 60.0)
        assert await _tokens(neuron) == before
        assert not {*neuron.engines()} & {*engines}


async def _loaded_for(neuron: RunningNeuron, times: int) -> bool:
    row = await neuron.row("tiny")
    return bool(row["loads"] == times and row["status"] == "loaded")


async def _tokens(neuron: RunningNeuron) -> list[int]:
    answer = await neuron.post(COMPLETIONS, {"model": "tiny", **GREEDY})
    assert answer.status == 200, answer.text
    return list(answer.json["choices"][0]["token_ids"])
