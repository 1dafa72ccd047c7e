"""Models that a vLLM server answers for: the same life, the same states and the same truthful streams as with ours."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from neuron_process import CHAT, MESSAGES, RunningNeuron, chat_body, running_neuron, until
from vllm_neuron import entry, servers, until_gone, write_program, write_script

LOAD, UNLOAD = "/models/load", "/models/unload"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_program(tmp_path_factory.mktemp("vllm"))


@pytest_asyncio.fixture(scope="module")
async def steady(program: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningNeuron]:
    """One for tests that break nothing."""
    model = entry(write_script(tmp_path_factory.mktemp("model")), aliases=["org/echo"])
    async with running_neuron([model], vllm_bin=program, max_sequences=4, queue_limit=4) as neuron:
        await neuron.until_status("loaded")
        yield neuron
        assert [each for each in neuron.log() if "traceback" in each] == []


@pytest_asyncio.fixture(loop_scope="session")
async def faulty(program: str, tmp_path: Path) -> AsyncIterator[RunningNeuron]:
    """One of its own for each test: recoveries are counted."""
    models = [entry(write_script(tmp_path / "model", stray=True))]
    async with running_neuron(models, vllm_bin=program, step_timeout_s=1.0) as neuron:
        await neuron.until_status("loaded")
        yield neuron
        assert [each for each in neuron.log() if "traceback" in each] == []


async def _recovered(neuron: RunningNeuron) -> None:
    async def again() -> bool:
        row = await neuron.row()
        return (row["status"], row["loads"]) == ("loaded", 2)

    await until(again, 20.0)


async def test_a_host_with_the_program_has_the_harness(steady: RunningNeuron, tmp_path: Path) -> None:
    """And one without has not: discovery is what gateways place by."""
    assert (await steady.get("/discovery"))["harnesses"] == ["torch", "vllm"]
    row = await steady.row()
    assert (row["harness"], row["status"], row["context"], row["vram_used_mb"]) == ("vllm", "loaded", 2048, 10)
    model = entry(write_script(tmp_path / "model"), preload_on=[])
    async with running_neuron([model], vllm_bin=str(tmp_path / "nowhere")) as neuron:
        assert (await neuron.get("/discovery"))["harnesses"] == ["torch"]
        refused = await neuron.post(LOAD, {"model_id": "echo"})
        assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")


async def test_what_the_server_is_started_with_is_what_the_inventory_says(program: str, tmp_path: Path) -> None:
    """Names, context, memory, numbers, sampling, and further arguments last."""
    folder = write_script(tmp_path / "model")
    model = entry(
        folder, aliases=["a/b"], context=512, quant="bf16", vram_mb=100, engine_args=["--dtype", "float32"],
        sampling={"temperature": 0.5},
    )  # fmt: skip
    async with running_neuron([model], vllm_bin=program, max_sequences=7, max_step_tokens=64) as neuron:
        assert (await neuron.until_status("loaded"))["context"] == 512
        started = json.loads((folder / "started.json").read_text())
        arguments = started["arguments"]
        assert arguments[:2] == ["serve", str(folder)]
        assert arguments[arguments.index("--served-model-name") + 1 :][:2] == ["echo", "a/b"]
        assert arguments[arguments.index("--max-num-seqs") + 1] == "7"
        assert 0 < float(arguments[arguments.index("--gpu-memory-utilization") + 1]) < 0.1
        assert json.loads(arguments[arguments.index("--override-generation-config") + 1]) == {"temperature": 0.5}
        assert arguments[-2:] == ["--dtype", "float32"]
        assert started["environment"] == {
            "CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": None, "VLLM_NO_USAGE_STATS": "1"
        }  # fmt: skip
        assert any(each["event"] == "vllm_log" and "Starting to load" in each["line"] for each in neuron.log())


async def test_an_answer_comes_back_as_it_was_given(steady: RunningNeuron) -> None:
    """Every byte of it, also fields that nobody here knows; counted and logged like any other."""
    answer = await steady.chat({"reply": "hello"}, model="org/echo")
    assert answer.json["choices"][0]["message"] == {"role": "assistant", "content": "hello", "unknown_to_us": None}
    assert answer.json["model"] == "org/echo"
    line = await steady.line_of(answer.headers["x-request-id"])
    assert [line[f"{kind}_tokens"] for kind in ("prompt", "completion", "cached")] == [11, 5, 3]
    assert (line["model"], line["finish_reason"], line["status"]) == ("echo", "stop", 200)
    assert (await steady.metrics())['neuron_tokens_total{kind="completion",model="echo"}'] >= 5


async def test_a_stream_comes_back_as_it_was_given(steady: RunningNeuron) -> None:
    """Usage stays here unless it was asked for; a gateway is told it in a comment before the end."""
    plain = await steady.chat({"reply": "hello"}, stream=True)
    assert (plain.content, plain.data[-1]) == ("hello", "[DONE]")
    assert "usage" not in plain.text
    asked = await steady.chat({"reply": "hello"}, stream=True, stream_options={"include_usage": True})
    assert asked.data[-2]["usage"]["completion_tokens"] == 5
    body = chat_body({"reply": "hello"}, stream=True)
    told = await steady.post(CHAT, body, **{"x-cortex-usage": "1"})
    comment = next(line for line in told.text.splitlines() if line.startswith(": cortex-usage "))
    assert json.loads(comment.removeprefix(": cortex-usage "))["prompt_tokens"] == 11
    assert told.text.endswith("data: [DONE]\n\n")


async def test_silence_is_filled_with_keep_alives(steady: RunningNeuron) -> None:
    """A comment at least every second (case S3)."""
    answer = await steady.chat({"reply": "x", "prefill_s": 2.2}, stream=True)
    assert len([line for line in answer.text.splitlines() if line.startswith(":")]) >= 2
    assert (answer.content, answer.data[-1]) == ("x", "[DONE]")


async def test_refusals_have_our_envelope(steady: RunningNeuron) -> None:
    """vLLM's words under our codes, whatever was asked for (cases S10, W7)."""
    for stream in (False, True):
        refused = await steady.chat({"refuse": True}, stream=stream)
        assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")
        assert "max_tokens=99999" in refused.json["error"]["message"]
    message = await steady.post(MESSAGES, chat_body({"reply": "x"}, max_tokens=5))
    assert (message.status, message.json["type"]) == (400, "error")
    count = await steady.post("/v1/messages/count_tokens", chat_body({"reply": "x"}))
    assert (count.status, count.json["error"]["code"]) == (400, "invalid_request")
    broken = await steady.post(CHAT, {"model": "echo", "messages": [], "stream": "yes"})
    assert (broken.status, broken.json["error"]["param"]) == (400, "stream")


@pytest.mark.parametrize("fault", ["fail_after", "cut_after"])
async def test_a_stream_that_breaks_ends_in_an_error(steady: RunningNeuron, fault: str) -> None:
    """Never in [DONE], not even where vLLM says it, and never within an event (case S6)."""
    answer = await steady.chat({"reply": "hello", fault: 3}, stream=True)
    assert answer.content == "hel"
    assert answer.data[-1]["error"]["code"] == "upstream_broken"
    assert "[DONE]" not in answer.data
    await steady.until_idle()
    assert (await steady.row())["loads"] == 1


async def test_a_client_that_leaves_stops_the_server(steady: RunningNeuron) -> None:
    """Before its answer begins, within it, and unstreamed; seats come back (cases S8, L9)."""
    before = sum("aborted" in each.get("line", "") for each in steady.log())
    slow = {"reply": "x" * 999, "step_s": 0.05}
    for order, stream in (({"prefill_s": 30}, True), (slow, True), ({"wait_after": 0}, False)):
        task = asyncio.create_task(steady.chat(order, stream=stream))
        await until(lambda: _in_flight(steady, 1))
        task.cancel()
        await steady.until_idle()

    async def aborted() -> bool:
        return sum("aborted" in each.get("line", "") for each in steady.log()) == before + 3

    await until(aborted)


async def _in_flight(neuron: RunningNeuron, count: int) -> bool:
    return bool((await neuron.health())["in_flight"] == count)


async def test_seats_are_bounded_and_figures_are_told(steady: RunningNeuron) -> None:
    """In flight by the neuron's own count, waiting and blocks by the server's; one that serves is not evicted (L6)."""
    tasks = [asyncio.create_task(steady.chat({"reply": "x", "wait_after": 0})) for _ in range(8)]
    await until(lambda: _in_flight(steady, 8))
    full = await steady.chat({"reply": "x"})
    assert (full.status, full.json["error"]["code"]) == (503, "queue_full")

    async def told() -> bool:
        health = await steady.health()
        return (health["queue_depth"], health["kv_blocks_total"], health["kv_blocks_free"]) == (4, 236, 228)

    await until(told)
    busy = await steady.post(UNLOAD, {"model_id": "echo", "if_idle": True})
    assert (busy.status, busy.json["error"]["code"]) == (409, "model_busy")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await steady.until_idle()


async def test_a_server_that_is_killed_in_a_stream_is_an_error_and_comes_back(faulty: RunningNeuron) -> None:
    """An event for streams, 500 for the rest, 503 until it serves again (cases S6, T6)."""
    before = servers(faulty)
    order = {"reply": "x" * 400, "step_s": 0.02}
    tasks = [asyncio.create_task(faulty.chat(order, stream=stream)) for stream in (True, False)]
    await until(lambda: _in_flight(faulty, 2))
    await asyncio.sleep(0.1)
    os.kill(before[1].pid, signal.SIGKILL)
    stream, whole = await asyncio.gather(*tasks)
    assert stream.data[-1]["error"]["code"] == "group_died"
    assert "signal 9 (SIGKILL)" in stream.data[-1]["error"]["message"]
    assert (whole.status, whole.json["error"]["code"]) == (500, "group_died")
    refused = await faulty.chat({"reply": "x"})
    assert refused.status in {200, 503}
    await _recovered(faulty)
    await until_gone(before)
    assert (await faulty.chat({"reply": "back"})).json["choices"][0]["message"]["content"] == "back"
    assert (await faulty.metrics())['neuron_group_deaths_total{kind="vllm_died",model="echo"}'] == 1


@pytest.mark.parametrize(("fault", "kind"), [("hang_after", "vllm_silent"), ("wait_after", "step_timeout")])
async def test_a_server_that_hangs_is_killed_from_outside(faulty: RunningNeuron, fault: str, kind: str) -> None:
    """One that answers nothing, and one that answers /health and does no work (case T4)."""
    answer = await faulty.chat({"reply": "hello", fault: 2}, stream=True)
    assert answer.content == "he"
    assert answer.data[-1]["error"]["code"] == "group_died"
    await _recovered(faulty)
    assert (await faulty.metrics())[f'neuron_group_deaths_total{{kind="{kind}",model="echo"}}'] == 1


async def test_starts_that_fail_say_why(program: str, tmp_path: Path) -> None:
    """The first fault in its log, not the last; memory has a kind of its own; and the deadline holds."""
    cases = [
        ("die", "vllm_died", "ValueError: no such quantization"),
        ("out_of_memory", "out_of_memory", "CUDA out of memory"),
        ("never", "load_timeout", "within 3 s"),
    ]
    models = [entry(write_script(tmp_path / name, start=name), id=name) for name, _, _ in cases]
    async with running_neuron(models, vllm_bin=program, load_timeout_s=3.0) as neuron:
        for name, kind, words in cases:
            row = await neuron.until_status("failed", name)
            assert row["failure"]["kind"] == kind
            assert words in row["failure"]["message"]
        assert servers(neuron) == []
        assert list((neuron.folder / "run").iterdir()) == []


async def test_unloading_lets_answers_end_and_leaves_nothing(faulty: RunningNeuron) -> None:
    """No process, not even one that left the group, and no socket (case T8)."""
    processes = servers(faulty)
    assert len(processes) == 4
    answer = asyncio.create_task(faulty.chat({"reply": "x" * 30, "step_s": 0.02}, stream=True))
    await until(lambda: _in_flight(faulty, 1))
    unloaded = asyncio.create_task(faulty.post(UNLOAD, {"model_id": "echo"}))
    await faulty.until_status("draining")
    assert (await faulty.chat({})).json["error"]["code"] == "draining"
    assert (await answer).content == "x" * 30
    assert (await unloaded).json["status"] == "unloaded"
    await until_gone(processes)
    assert list((faulty.folder / "run").iterdir()) == []


async def test_a_load_that_is_unloaded_while_it_runs_leaves_nothing(program: str, tmp_path: Path) -> None:
    """And tells how far it was."""
    models = [entry(write_script(tmp_path / "model", start="never"))]
    async with running_neuron(models, vllm_bin=program) as neuron:

        async def at_weights() -> bool:
            return ((await neuron.row())["progress"] or {}).get("phase") == "weights"

        await until(at_weights)
        processes = servers(neuron)
        assert (await neuron.post(UNLOAD, {"model_id": "echo"})).json["status"] == "unloaded"
        await until_gone(processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_ends_with_its_daemon(program: str, tmp_path: Path, number: signal.Signals) -> None:
    """Asked to end, it tells its clients; killed, it takes the server along."""
    models = [entry(write_script(tmp_path / "model", stray=True))]
    async with running_neuron(models, vllm_bin=program, drain_timeout_s=0.5) as neuron:
        await neuron.until_status("loaded")
        processes = servers(neuron)
        answer = asyncio.create_task(neuron.chat({"reply": "x" * 999, "step_s": 0.05}, stream=True))
        await until(lambda: _in_flight(neuron, 1))
        began = time.monotonic()
        neuron.process.send_signal(number)
        if number is signal.SIGTERM:
            assert (await answer).data[-1]["error"]["code"] in {"shutting_down", "draining"}
        await neuron.process.wait()
        await until_gone(processes)
        assert time.monotonic() - began < 10
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
