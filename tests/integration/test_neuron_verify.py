"""What a deploy asks of a host before clients meet it: drained over a restart, and a model that answers for real."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from neuron_process import DEMO_MODEL, REAL, Answered, RunningNeuron, running_neuron, until, write_models
from scripted_model import write_model
from vllm_neuron import entry as vllm_entry
from vllm_neuron import write_program, write_script

VERIFY, LOAD = "/models/verify", "/models/load"


def _model(path: Path, model_id: str, **entry: Any) -> dict[str, Any]:
    return {"id": model_id, "source": str(path), **entry}


async def _verify(neuron: RunningNeuron, model_id: str, **more: Any) -> Answered:
    return await neuron.post(VERIFY, {"model_id": model_id, **more})


def _refusal(answer: Answered) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_drained_neuron_is_drained_when_its_daemon_starts_again(echo_model: Path, end: signal.Signals) -> None:
    """However the daemon ended; and an undrained one is not. What a killed daemon left is cleared all the same."""
    async with running_neuron([_model(echo_model, "echo", preload_on=["here"])]) as neuron:
        await neuron.until_status("loaded")
        await neuron.post("/drain", {})
        await _start_again(neuron, end)
        assert (await neuron.get("/health"))["state"] == "draining"
        assert _refusal(await neuron.chat({})) == (503, "draining")
        assert [file.name for file in (neuron.folder / "run").iterdir()] == ["drained"]
        await neuron.post("/undrain", {})
        await neuron.until_status("loaded")
        await _start_again(neuron, end)
        await neuron.until_status("loaded")
        assert (await neuron.get("/health"))["state"] == "ready"


async def _start_again(neuron: RunningNeuron, end: signal.Signals) -> None:
    family = neuron.family()
    neuron.process.send_signal(end)
    await asyncio.wait_for(neuron.process.wait(), 20)

    async def ended() -> bool:
        return not any(each.is_running() for each in family)

    await until(ended)
    await neuron.start_again()


async def test_a_disk_that_is_full_does_not_keep_an_operator_from_draining(echo_model: Path) -> None:
    """The log says that it will not be remembered."""
    async with running_neuron([_model(echo_model, "echo")]) as neuron:
        (neuron.folder / "run").rename(neuron.folder / "gone")
        assert (await neuron.post("/drain", {})).json["state"] == "draining"
        assert [line["drained"] for line in neuron.logged("drain_not_kept")] == [True]


async def test_a_drained_neuron_verifies_its_models_and_takes_nothing_else(echo_model: Path) -> None:
    """Preloads wait, requests and loads are refused; each model is brought up, or woken, by whoever asks for this (case
    D2)."""
    models = [_model(echo_model, "echo", preload_on=["here"], aliases=["nick"]), _model(echo_model, "other")]
    async with running_neuron(models, drained=True, sleep_host_memory_mb=100) as neuron:
        answer = await _verify(neuron, "nick")
        told = answer.json
        assert (answer.status, told["model_id"], told["text"], told["completion_tokens"]) == (200, "echo", "ok", 3)
        assert told["load_s"] > 0
        assert told["completion_s"] > 0
        assert (await _verify(neuron, "echo")).json["load_s"] == 0
        await neuron.until_idle()
        slept = await neuron.post("/models/unload", {"model_id": "echo", "level": "sleep"})
        assert slept.json["status"] == "sleeping"
        assert _refusal(await neuron.post(LOAD, {"model_id": "echo"})) == (503, "draining")
        assert (await _verify(neuron, "echo")).json["load_s"] > 0
        assert [line["woken"] for line in neuron.logged("model_loaded")] == [False, True]
        assert (await neuron.get("/health"))["state"] == "draining"
        assert _refusal(await neuron.chat({})) == (503, "draining")
        assert _refusal(await neuron.post(LOAD, {"model_id": "other"})) == (503, "draining")
        assert (await neuron.row("other"))["status"] == "unloaded"
        await neuron.until_idle()
        assert (await neuron.post("/undrain", {})).json["state"] == "ready"
        assert (await neuron.chat({"reply": "x"})).status == 200
        assert (await neuron.row())["loads"] == 2


async def test_a_model_that_does_not_work_is_an_error_with_the_reason(tmp_path: Path) -> None:
    """It cannot be loaded, says nothing, computes no numbers, is not there, or takes too long."""
    models = {
        "bad": {"load": "error"},
        "mute": {"unordered": {"reply": ""}},
        "empty": {"unordered": {"reply_ids": []}},
        "nan": {"unordered": {"fail_after": 2}},
        "late": {"load_s": 30.0},
        "slow": {"unordered": {"prefill_s": 30.0}},
        "dies": {"unordered": {"die_after": 1}},
    }
    entries = [_model(write_model(tmp_path / name, **orders), name) for name, orders in models.items()]
    async with running_neuron(entries, drain_timeout_s=0.5) as neuron:
        bad = await _verify(neuron, "bad")
        assert _refusal(bad) == (503, "model_failed")
        assert "no room" in bad.json["error"]["message"]
        assert _refusal(await _verify(neuron, "mute")) == (500, "engine_failed")
        for name in ("empty", "slow"):  # how long a load takes is no matter here
            await neuron.post(LOAD, {"model_id": name})
            await neuron.until_status("loaded", name)
            assert _refusal(await _verify(neuron, name, timeout_s=1.0)) == (500, "engine_failed")
        assert _refusal(await _verify(neuron, "nan")) == (500, "non_finite_logits")
        assert _refusal(await _verify(neuron, "dies")) == (500, "group_died")
        assert _refusal(await _verify(neuron, "nobody")) == (404, "model_not_found")
        assert _refusal(await _verify(neuron, "nan", timeout_s=0)) == (400, "invalid_parameter")
        assert _refusal(await _verify(neuron, "late", timeout_s=0.5)) == (503, "model_loading")
        await neuron.until_idle("slow")  # its seat and its blocks are free again
        assert [line for line in neuron.log() if "traceback" in line] == []


async def test_a_verification_is_a_request_like_any_other(tmp_path: Path) -> None:
    """It takes a seat, waits where there is none, and holds up no unload longer than that may wait."""
    busy = write_model(tmp_path / "busy", unordered={"reply": "ok", "prefill_s": 0.5})
    async with running_neuron([_model(busy, "busy")], max_sequences=1, queue_limit=0) as neuron:
        await neuron.post(LOAD, {"model_id": "busy"})
        await neuron.until_status("loaded", "busy")
        first = asyncio.create_task(_verify(neuron, "busy"))

        async def seated() -> bool:
            return (await neuron.health("busy"))["in_flight"] == 1

        await until(seated)
        assert _refusal(await neuron.chat({"reply": "x"}, "busy")) == (503, "queue_full")
        assert _refusal(await _verify(neuron, "busy")) == (503, "queue_full")
        assert (await first).json["text"] == "ok"


async def test_a_model_that_is_being_renewed_is_verified_as_it_will_be(tmp_path: Path, echo_model: Path) -> None:
    """Whoever reloads and then verifies hears of the new entry, not that the old one is being unloaded."""
    async with running_neuron([_model(echo_model, "m", preload_on=["here"])]) as neuron:
        await neuron.until_status("loaded", "m")
        stream = asyncio.create_task(neuron.chat({"reply": "x" * 40, "step_s": 0.03}, "m", stream=True))

        async def seated() -> bool:
            return bool((await neuron.health("m"))["in_flight"])

        await until(seated)
        write_models(neuron.folder, [_model(write_model(tmp_path / "n", unordered={"reply": "new"}), "m")])
        await neuron.reload()
        assert (await _verify(neuron, "m")).json["text"] == "new"
        assert (await stream).content == "x" * 40


async def test_a_neuron_that_stops_verifies_nothing(echo_model: Path) -> None:
    """Drained is an operator's word, stopping is not."""
    async with running_neuron([_model(echo_model, "echo", preload_on=["here"]), _model(echo_model, "other")]) as neuron:
        await neuron.until_status("loaded")
        stream = asyncio.create_task(neuron.chat({"reply": "x" * 50, "step_s": 0.02}, stream=True))

        async def seated() -> bool:
            return bool((await neuron.health())["in_flight"])

        await until(seated)
        ended = asyncio.create_task(neuron.terminate())

        async def stopping() -> bool:
            return bool(neuron.logged("stopping"))

        await until(stopping)
        assert _refusal(await _verify(neuron, "other")) == (503, "shutting_down")
        assert (await stream).content == "x" * 50
        assert await ended == 0


async def test_a_model_of_vllm_is_verified_through_its_server(tmp_path: Path) -> None:
    """The same question by the server's own route; what it refuses comes back as the error it is."""
    works = vllm_entry(write_script(tmp_path / "works", completion="a Paris of tokens"), preload_on=[])
    mute = {**vllm_entry(write_script(tmp_path / "mute", completion="")), "id": "mute", "preload_on": []}
    dead = {**vllm_entry(write_script(tmp_path / "dead", start="die")), "id": "dead", "preload_on": []}
    async with running_neuron([works, mute, dead], drained=True, vllm_bin=write_program(tmp_path)) as neuron:
        told = (await _verify(neuron, "echo")).json
        assert (told["text"], told["completion_tokens"]) == ("a Paris ", 8)
        assert _refusal(await _verify(neuron, "mute")) == (500, "engine_failed")
        assert _refusal(await _verify(neuron, "dead")) == (503, "model_failed")


async def test_the_real_engine_is_verified_with_words() -> None:
    """The demo model, drained, from cold."""
    assert DEMO_MODEL.exists(), f"{DEMO_MODEL} is missing: run make demo-model"
    models = [{"id": "smollm2", "source": str(DEMO_MODEL), "vram_mb": 2600, "preload_on": ["here"]}]
    async with running_neuron(models, REAL, drained=True) as neuron:
        told = (await _verify(neuron, "smollm2")).json
        assert (told["completion_tokens"], told["text"].split()[0]) == (8, "Paris."), told
        assert told["load_s"] > told["completion_s"] > 0
