"""The life of models and of the daemon: loads, unloads, drains, ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import fake_nvml
import psutil
import pytest
from neuron_process import MESSAGES, RunningNeuron, chat_body, running_neuron, until
from scripted_model import write_model

LOAD, UNLOAD, PIN = "/models/load", "/models/unload", "/models/pin"


def _model(path: Path, model_id: str, **entry: Any) -> dict[str, Any]:
    return {"id": model_id, "source": str(path), **entry}


async def test_five_loads_of_one_model_are_one_and_hold_up_no_other(tmp_path: Path, echo_model: Path) -> None:
    """Single flight per model; another model is loaded at the same time (case L1)."""
    slow = write_model(tmp_path / "slow", load_s=4.0)
    async with running_neuron([_model(slow, "slow"), _model(echo_model, "echo")]) as neuron:
        loads = [neuron.post(LOAD, {"model_id": "slow"}) for _ in range(5)]
        answers = await asyncio.gather(*loads)
        assert {answer.json["status"] for answer in answers} == {"loading"}
        await neuron.post(LOAD, {"model_id": "echo"})
        await neuron.until_status("loaded", "echo")
        loading = await until(lambda: _progress(neuron, "slow"))
        assert loading == {"phase": "weights", "fraction": 0.5}
        refused = await neuron.chat({}, "slow")
        assert (refused.status, refused.json["error"]["code"]) == (503, "model_loading")
        assert int(refused.headers["retry-after"]) > 0
        assert len(neuron.engines()) == 2
        assert (await neuron.until_status("loaded", "slow"))["loads"] == 1


async def _progress(neuron: RunningNeuron, model: str) -> Any:
    return (await neuron.row(model))["progress"]


async def test_what_a_model_has_not_written_yet_is_not_free(tmp_path: Path) -> None:
    """A CPU's pages come when they are first written; two models are not promised the same memory (case L7)."""
    most_mb = psutil.virtual_memory().available * 6 // 10 // 2**20
    models = [_model(write_model(tmp_path / name, vram_mb=most_mb), name, vram_mb=most_mb) for name in ("one", "two")]
    async with running_neuron(models) as neuron:
        await neuron.post(LOAD, {"model_id": "one"})
        await neuron.until_status("loaded", "one")
        assert (await neuron.get("/health"))["devices"][0]["vram_free_mb"] < most_mb
        refused = await neuron.post(LOAD, {"model_id": "two"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "no_capacity")
        await neuron.post(UNLOAD, {"model_id": "one"})
        await neuron.post(LOAD, {"model_id": "two"})
        await neuron.until_status("loaded", "two")


async def test_a_report_is_health_and_models_in_one_and_the_same_until_something_changes(echo_model: Path) -> None:
    """A gateway polls nothing else, and need not read again what it has read."""
    async with running_neuron([_model(echo_model, "echo", preload_on=["here"])]) as neuron:
        await neuron.until_status("loaded")
        await neuron.chat({"reply": "x"})
        await neuron.until_idle()
        report, health, models = [await neuron.get(path) for path in ("/report", "/health", "/models")]
        assert report["models"] == models
        assert {**report["health"], "devices": ..., "uptime_secs": ...} == {
            **health,
            "devices": ...,
            "uptime_secs": ...,
        }
        again = await neuron.get("/report")  # a CPU's memory and load are never the same
        assert [again["models"], again["health"]["models"]] == [report["models"], report["health"]["models"]]
        assert 0 <= time.time() - report["models"][0]["last_used_at"] < 20


async def test_a_pin_shows_until_it_is_taken_back_and_holds_off_no_operator(scripted: RunningNeuron) -> None:
    """It lives in the neuron, so that every gateway sees it; by any name of the model."""
    assert (await scripted.row())["pinned"] is False
    answer = await scripted.post(PIN, {"model_id": "org/echo"})
    assert (answer.status, answer.json) == (200, {"model_id": "echo", "status": "loaded"})
    assert (await scripted.get("/report"))["models"][0]["pinned"] is True
    assert (await scripted.post(UNLOAD, {"model_id": "echo"})).json["status"] == "unloaded"
    assert (await scripted.row())["pinned"] is True
    await scripted.post(LOAD, {"model_id": "echo"})
    await scripted.until_status("loaded")
    assert (await scripted.post(PIN, {"model_id": "echo", "pinned": False})).status == 200
    assert (await scripted.row())["pinned"] is False


async def test_a_pin_of_a_model_that_nobody_declares_is_refused(scripted: RunningNeuron) -> None:
    """404, with those there are; and a body that says something else is 400."""
    unknown = await scripted.post(PIN, {"model_id": "nobody"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")
    assert (await scripted.post(PIN, {"model_id": "echo", "pinned": "maybe"})).status == 400


async def test_the_socket_is_bound_before_models_are_loaded(tmp_path: Path) -> None:
    """And /health tells how far it is (case L2)."""
    slow = write_model(tmp_path / "slow", load_s=1.0)
    async with running_neuron([_model(slow, "slow", preload_on=["here"])]) as neuron:
        health = await neuron.get("/health")
        assert health["state"] == "activating"
        assert health["activation"] == {"wanted": ["slow"], "loaded": [], "failed": []}
        await neuron.until_status("loaded", "slow")
        health = await neuron.get("/health")
        assert (health["state"], health["activation"]["loaded"]) == ("ready", ["slow"])


async def test_a_model_that_can_never_be_loaded_here_does_not_hold_up_the_rest(echo_model: Path) -> None:
    """The neuron becomes ready, and says what failed (case L2)."""
    models = [
        _model(echo_model, "echo", preload_on=["here"]),
        _model(echo_model, "other", preload_on=["here"], harness="vllm"),
    ]
    async with running_neuron(models) as neuron:
        await neuron.until_status("loaded", "echo")
        health = await neuron.get("/health")
        assert (health["state"], health["activation"]["failed"]) == ("ready", ["other"])


async def test_an_unload_of_what_is_idle_spares_what_is_in_use(tmp_path: Path, echo_model: Path) -> None:
    """A gateway evicts so: of another gateway's requests, and of a load, only the neuron knows in time (case L6)."""
    slow = write_model(tmp_path / "slow", load_s=2.0)
    async with running_neuron([_model(echo_model, "echo", preload_on=["here"]), _model(slow, "slow")]) as neuron:
        await neuron.until_status("loaded", "echo")
        await neuron.post(LOAD, {"model_id": "slow"})
        answer = asyncio.create_task(neuron.chat({"reply": "x" * 50, "step_s": 0.02}, stream=True))
        await until(lambda: _in_flight(neuron))
        for name in ("echo", "slow"):
            refused = await neuron.post(UNLOAD, {"model_id": name, "if_idle": True})
            assert (refused.status, refused.json["error"]["code"]) == (409, "model_busy")
        assert (await answer).content == "x" * 50
        assert (await neuron.post(UNLOAD, {"model_id": "echo", "if_idle": True})).json["status"] == "unloaded"
        await neuron.until_status("loaded", "slow")


async def test_unloading_lets_answers_end_and_leaves_nothing(echo_model: Path) -> None:
    """In-flight first, then the processes, sockets and gauges; memory before and after is logged (cases T8, M2)."""
    async with running_neuron([_model(echo_model, "echo", preload_on=["here"])]) as neuron:
        await neuron.until_status("loaded")
        (engine,) = neuron.engines()
        answer = asyncio.create_task(neuron.chat({"reply": "x" * 50, "step_s": 0.02}, stream=True))
        await until(lambda: _in_flight(neuron))
        unloaded = asyncio.create_task(neuron.post(UNLOAD, {"model_id": "echo"}))
        await neuron.until_status("draining")
        refused = await neuron.chat({})
        assert (refused.status, refused.json["error"]["code"]) == (503, "draining")
        assert (await answer).content == "x" * 50
        assert (await unloaded).json == {"model_id": "echo", "status": "unloaded"}
        assert not engine.is_running()
        assert list((neuron.folder / "run").iterdir()) == []
        (ended,) = [line for line in neuron.log() if line["event"] == "group_ended"]
        assert ended["free_before_mb"]["0"] > 0
        assert ended["free_after_mb"]["0"] > 0
        assert not any('model="echo"' in name for name in await neuron.metrics() if "status" in name or "kv" in name)
        refused = await neuron.chat({})
        assert (refused.status, refused.json["error"]["code"]) == (503, "unavailable")


async def _in_flight(neuron: RunningNeuron) -> bool:
    return bool((await neuron.health())["in_flight"])


async def test_a_load_that_is_unloaded_while_it_runs_leaves_nothing(tmp_path: Path) -> None:
    """An operator may change their mind."""
    slow = write_model(tmp_path / "slow", load="never")
    async with running_neuron([_model(slow, "slow")]) as neuron:
        await neuron.post(LOAD, {"model_id": "slow"})
        await until(lambda: _has_engine(neuron))
        assert (await neuron.post(UNLOAD, {"model_id": "slow"})).json["status"] == "unloaded"
        assert neuron.engines() == []
        assert list((neuron.folder / "run").iterdir()) == []


async def _has_engine(neuron: RunningNeuron) -> bool:
    return bool(neuron.engines())


@pytest.mark.parametrize(
    ("orders", "kind", "words"),
    [
        ({"load": "never"}, "load_timeout", "did not finish loading within"),
        ({"load": "die"}, "rank_died", "rank 0 exited with code 17"),
        ({"load": "error"}, "out_of_memory", "no room"),
    ],
)
async def test_a_load_that_fails_is_told_with_rank_and_kind(
    tmp_path: Path, orders: dict[str, str], kind: str, words: str
) -> None:
    """Whatever way it fails, nothing is left and it may be asked for again (cases T3, L5)."""
    bad = write_model(tmp_path / "bad", **orders)
    async with running_neuron([_model(bad, "bad")], load_timeout_s=5.0) as neuron:
        await neuron.post(LOAD, {"model_id": "bad"})
        failure = (await neuron.until_status("failed", "bad"))["failure"]
        assert (failure["kind"], failure["rank"]) == (kind, 0)
        assert words in failure["message"]
        assert neuron.engines() == []
        refused = await neuron.chat({}, "bad")
        assert (refused.status, refused.json["error"]["code"]) == (503, "model_failed")
        write_model(tmp_path / "bad")
        await neuron.post(LOAD, {"model_id": "bad"})
        await neuron.until_status("loaded", "bad")


@pytest.mark.parametrize(("boot", "kind"), [("silent", "hello_timeout"), ("die", "rank_died")])
async def test_a_process_that_never_says_hello_is_given_up(echo_model: Path, boot: str, kind: str) -> None:
    """It has the load's deadline too, and is ended (case T3)."""
    environment = {"SCRIPTED_RANK_BOOT": boot}
    async with running_neuron([_model(echo_model, "echo")], load_timeout_s=2.0, environment=environment) as neuron:
        await neuron.post(LOAD, {"model_id": "echo"})
        assert (await neuron.until_status("failed"))["failure"]["kind"] == kind
        assert neuron.engines() == []
        assert list((neuron.folder / "run").iterdir()) == []


async def test_an_architecture_we_do_not_have_is_422_before_any_process(tmp_path: Path) -> None:
    """It names the type and the set (case T11); as does a source that is not there."""
    odd = write_model(tmp_path / "odd")
    (odd / "config.json").write_text('{"model_type": "t5"}')
    async with running_neuron([_model(odd, "odd"), _model(tmp_path / "none", "none")]) as neuron:
        refused = await neuron.post(LOAD, {"model_id": "odd"})
        assert (refused.status, refused.json["error"]["code"]) == (422, "unsupported_architecture")
        assert "'t5'" in refused.json["error"]["message"]
        assert "'llama'" in refused.json["error"]["message"]
        assert (await neuron.row("odd"))["failure"]["kind"] == "unsupported_architecture"
        missing = await neuron.post(LOAD, {"model_id": "none"})
        assert (missing.status, missing.json["error"]["code"]) == (503, "model_failed")
        assert "no such file or folder" in missing.json["error"]["message"]
        assert neuron.engines() == []


async def test_a_repository_that_cannot_be_reached_is_pending_not_failed(tmp_path: Path, echo_model: Path) -> None:
    """It is tried again, loaded from disk once it is there, and the rest is served meanwhile (case L3)."""
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    models = [
        {"id": "far", "source": "org/far", "preload_on": ["here"]},
        _model(echo_model, "echo", preload_on=["here"]),
    ]
    async with running_neuron(models, environment=environment) as neuron:
        await neuron.until_status("loaded", "echo")
        await neuron.until_status("pending", "far")
        assert (await neuron.get("/health"))["state"] == "activating"
        refused = await neuron.chat({}, "far")
        assert (refused.status, refused.json["error"]["code"]) == (503, "model_loading")
        repository, revision = tmp_path / "hub" / "models--org--far", "0" * 40
        (write_model(repository / "snapshots" / revision) / "model.safetensors").touch()
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(revision)
        await neuron.until_status("loaded", "far")


async def test_a_driver_problem_refuses_loads_and_is_said(tmp_path: Path, echo_model: Path) -> None:
    """503 cuda_unavailable in the words of /discovery; nothing is started (case T9)."""
    environment = fake_nvml.environment(fake_nvml.build(tmp_path), INIT=18)
    async with running_neuron([_model(echo_model, "echo")], None, environment, devices="all") as neuron:
        refused = await neuron.post(LOAD, {"model_id": "echo"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "cuda_unavailable")
        assert refused.json["error"]["message"] == "driver/library version mismatch: reboot"
        assert (await neuron.get("/discovery"))["driver_problem"] == "driver/library version mismatch: reboot"
        assert neuron.engines() == []


async def test_gpus_are_placed_on_by_free_memory(tmp_path: Path, echo_model: Path) -> None:
    """The emptier of two cards, unless one is asked for; each is told to the engine as a CUDA device (case L7)."""
    environment = fake_nvml.environment(fake_nvml.build(tmp_path), GPUS=2)
    models = [_model(echo_model, "echo"), _model(echo_model, "other")]
    async with running_neuron(models, None, environment, devices="all") as neuron:
        await neuron.post(LOAD, {"model_id": "echo"})
        await neuron.post(LOAD, {"model_id": "other", "devices": [1]})
        assert (await neuron.until_status("loaded", "echo"))["devices"] == [0]
        assert (await neuron.until_status("loaded", "other"))["devices"] == [1]
        loaded = {line["model"]: line["devices"] for line in neuron.log() if line["event"] == "model_loaded"}
        assert loaded == {"echo": ["cuda:0"], "other": ["cuda:1"]}


async def test_a_model_over_two_gpus_has_a_rank_on_each(tmp_path: Path, echo_model: Path) -> None:
    """By free memory where none is asked for; too few devices are the client's mistake, and no more are there."""
    environment = fake_nvml.environment(fake_nvml.build(tmp_path), GPUS=2)
    async with running_neuron([_model(echo_model, "echo")], None, environment, devices="all") as neuron:
        for asked, status, words in (
            ({"tensor_parallel": 2, "devices": [1]}, 400, "devices: [1] are too few; the model needs 2"),
            ({"tensor_parallel": 3}, 503, "the model needs 3 devices; this neuron has 2"),
        ):
            refused = await neuron.post(LOAD, {"model_id": "echo", **asked})
            assert (refused.status, refused.json["error"]["message"]) == (status, words)
        await neuron.post(LOAD, {"model_id": "echo", "tensor_parallel": 2})
        assert (await neuron.until_status("loaded", "echo"))["devices"] == [0, 1]
        (loaded,) = [line for line in neuron.log() if line["event"] == "model_loaded"]
        assert loaded["devices"] == ["cuda:0", "cuda:1"]
        assert len(neuron.engines()) == len(loaded["pids"]) == 2
        assert (await neuron.chat({"reply": "from both"})).json["choices"][0]["message"]["content"] == "from both"


async def test_bad_load_requests_say_what_is_wrong(echo_model: Path) -> None:
    """Unknown models, keys, devices, harnesses and parallelism."""
    async with running_neuron([_model(echo_model, "echo"), _model(echo_model, "big", vram_mb=10**9)]) as neuron:
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({"model_id": "nobody"}, 404, "model_not_found"),
            ({"model_id": "echo", "devices": [5]}, 400, "invalid_parameter"),
            ({"model_id": "echo", "harness": "vllm"}, 400, "invalid_request"),
            ({"model_id": "echo", "modle": 1}, 400, "unsupported_parameter"),
            ({}, 400, "invalid_parameter"),
            ({"model_id": "big"}, 503, "no_capacity"),
        ]
        for body, status, code in cases:
            answer = await neuron.post(LOAD, body)
            assert (answer.status, answer.json["error"]["code"]) == (status, code), body
        assert {(await neuron.row(name))["status"] for name in ("echo", "big")} == {"unloaded"}


async def test_a_full_queue_is_503_and_seats_come_back(echo_model: Path) -> None:
    """Bounded, with Retry-After; every way of leaving gives the seat back (cases L9, L10)."""
    models = [_model(echo_model, "echo", preload_on=["here"])]
    async with running_neuron(models, max_sequences=1, queue_limit=2) as neuron:
        await neuron.until_status("loaded")
        for _ in range(3):
            waiting = [asyncio.create_task(neuron.chat({"reply": "x", "prefill_s": 30})) for _ in range(3)]
            await until(lambda: _seats(neuron, 3))
            full = await neuron.chat({"reply": "x"})
            assert (full.status, full.json["error"]["code"]) == (503, "queue_full")
            assert int(full.headers["retry-after"]) > 0
            assert (await neuron.health())["queue_depth"] <= 2
            for task in waiting:  # the running one and those in the queue
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await neuron.until_idle()
        assert (await neuron.chat({"reply": "x"})).status == 200


async def _seats(neuron: RunningNeuron, taken: int) -> bool:
    return bool((await neuron.health())["in_flight"] == taken)


async def test_a_client_that_leaves_frees_blocks_and_seat_within_a_step(scripted: RunningNeuron) -> None:
    """While decoding, in prefill, and while queued; streamed or not (cases S8, T2)."""
    for order in ({"reply": "x" * 500, "step_s": 0.01}, {"reply": "x", "prefill_s": 30}):
        for stream in (True, False):
            asked = [asyncio.create_task(scripted.chat(order, stream=stream)) for _ in range(6)]
            await until(lambda: _seats(scripted, 6))
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            began = time.monotonic()
            await scripted.until_idle()
            assert time.monotonic() - began < 1.0
    assert (await scripted.chat({"reply": "served"})).json["choices"][0]["message"]["content"] == "served"


async def test_control_endpoints_answer_while_the_engine_works(scripted: RunningNeuron) -> None:
    """Under 100 ms each, while long prompts are being read (case T7)."""
    big = {"model": "echo", "messages": [{"role": "user", "content": "word " * 150_000}]}
    busy = [asyncio.create_task(scripted.post(MESSAGES, {**big, "max_tokens": 5})) for _ in range(2)]
    busy.append(asyncio.create_task(scripted.chat({"reply": "x", "prefill_s": 1.0})))
    waits = []
    while not all(task.done() for task in busy):
        for path in ("/report", "/health", "/models", "/discovery", "/version"):
            began = time.monotonic()
            await scripted.get(path)
            waits.append(time.monotonic() - began)
        await asyncio.sleep(0.02)
    assert sorted(waits)[int(len(waits) * 0.95)] < 0.1
    assert (await busy[0]).json["error"]["code"] == "context_length_exceeded"


async def test_draining_takes_nothing_new_and_undraining_does(echo_model: Path) -> None:
    """For an operator's maintenance; what runs goes on."""
    models = [_model(echo_model, "echo", preload_on=["here"])]
    async with running_neuron(models, drained=True) as neuron:
        assert (await neuron.get("/health"))["state"] == "draining"
        refused = await neuron.chat({})
        assert (refused.status, refused.json["error"]["code"]) == (503, "draining")
        assert (await neuron.post("/undrain", {})).json["state"] == "activating"
        await neuron.until_status("loaded")
        running = asyncio.create_task(neuron.chat({"reply": "x" * 20, "step_s": 0.02}))
        await until(lambda: _in_flight(neuron))
        assert (await neuron.post("/drain", {})).json["state"] == "draining"
        assert (await neuron.chat({})).status == 503
        assert (await running).status == 200
        assert (await neuron.post("/undrain", {})).json["state"] == "ready"
        assert (await neuron.chat({"reply": "x"})).status == 200


async def test_sigterm_ends_what_runs_and_sends_away_what_waits(echo_model: Path) -> None:
    """Admission closes, waiters get 503, the running answer ends, exit code 0, nothing is left (case L8)."""
    models = [_model(echo_model, "echo", preload_on=["here"])]
    async with running_neuron(models, max_sequences=1, queue_limit=2) as neuron:
        await neuron.until_status("loaded")
        running = asyncio.create_task(neuron.chat({"reply": "x" * 100, "step_s": 0.02}, stream=True))
        await until(lambda: _seats(neuron, 1))
        waiting = asyncio.create_task(neuron.chat({"reply": "y"}))
        await until(lambda: _queued(neuron, 1))
        family = neuron.family()
        ended = asyncio.create_task(neuron.terminate())
        refused = await waiting
        assert (refused.status, refused.json["error"]["code"]) == (503, "shutting_down")
        late = await neuron.chat({"reply": "z"})
        assert (late.status, late.json["error"]["code"]) == (503, "shutting_down")
        assert (await running).content == "x" * 100
        assert await ended == 0
        # multiprocessing's resource tracker ends by itself, right after the daemon
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert list((neuron.folder / "run").iterdir()) == []


async def _queued(neuron: RunningNeuron, depth: int) -> bool:
    return bool((await neuron.health())["queue_depth"] == depth)


async def test_an_answer_longer_than_the_drain_bound_is_cut_with_an_error(echo_model: Path) -> None:
    """SIGTERM does not wait for ever, and a cut answer does not look whole (cases L8, S6)."""
    models = [_model(echo_model, "echo", preload_on=["here"])]
    async with running_neuron(models, drain_timeout_s=0.5) as neuron:
        await neuron.until_status("loaded")
        body = chat_body({"reply": "x" * 1000, "step_s": 0.05}, stream=True)
        answer = asyncio.create_task(neuron.post("/v1/chat/completions", body))
        await until(lambda: _in_flight(neuron))
        began = time.monotonic()
        assert await neuron.terminate() == 0
        assert time.monotonic() - began < 8.0
        assert (await answer).data[-1]["error"]["code"] == "shutting_down"


async def test_a_port_that_is_taken_is_an_error_that_names_it(scripted: RunningNeuron) -> None:
    """Exit code 1, in words."""
    port = int(scripted.url.rpartition(":")[2])
    with pytest.raises(AssertionError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
        async with running_neuron([], port=port):
            pass
