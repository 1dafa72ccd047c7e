"""Engines that die, hang, or go silent: what clients see, and that the model comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from neuron_process import CHAT, MESSAGES, ROOT, RunningNeuron, chat_body, running_neuron, until
from scripted_model import write_model

HASTY = [sys.executable, str(ROOT / "tests/unit/neuron/hasty_daemon.py")]
IMMORTAL = [sys.executable, str(ROOT / "tests/unit/neuron/immortal_daemon.py")]


@pytest_asyncio.fixture(loop_scope="session")
async def faulty(echo_model: Path) -> AsyncIterator[RunningNeuron]:
    """A neuron of its own for each test: recoveries are counted."""
    models = [{"id": "echo", "source": str(echo_model), "preload_on": ["here"]}]
    async with running_neuron(models, max_sequences=4, queue_limit=4, step_timeout_s=1.0) as neuron:
        await neuron.until_status("loaded")
        yield neuron


async def _recovered(neuron: RunningNeuron) -> Any:
    async def again() -> Any:
        row = await neuron.row()
        return row if (row["status"], row["loads"]) == ("loaded", 2) else None

    return await until(again, 20.0)


async def test_kill_9_in_a_stream_is_an_error_event_and_the_model_recovers(faulty: RunningNeuron) -> None:
    """No [DONE], no message_stop; the next request is served by a new process (cases S6, T6)."""
    (engine,) = faulty.engines()
    order = {"reply": "x" * 400, "step_s": 0.02}
    streams = [
        asyncio.create_task(faulty.post(CHAT, chat_body(order, stream=True), **{"X-Request-Id": "killed"})),
        asyncio.create_task(faulty.post(MESSAGES, chat_body(order, stream=True, max_tokens=500))),
        asyncio.create_task(faulty.chat(order)),
    ]
    await until(lambda: _all_decode(faulty, 3))
    os.kill(engine.pid, signal.SIGKILL)
    chat, message, whole = await asyncio.gather(*streams)
    assert chat.status == message.status == 200
    assert chat.data[-1]["error"]["code"] == "group_died"
    assert "signal 9 (SIGKILL)" in chat.data[-1]["error"]["message"]
    assert message.data[-1]["error"]["code"] == "group_died"
    assert "message_stop" not in message.text
    assert (whole.status, whole.json["error"]["code"]) == (500, "group_died")
    assert "retry-after" in whole.headers
    row = await faulty.row()
    assert (row["status"], row["loads"]) != ("loaded", 1)  # nobody is told that the dead group is there
    assert (await faulty.line_of("killed"))["code"] == "group_died"
    await _recovered(faulty)
    assert faulty.engines()[0].pid != engine.pid
    assert (await faulty.chat({"reply": "back"})).json["choices"][0]["message"]["content"] == "back"
    assert (await faulty.metrics())['neuron_group_deaths_total{kind="rank_died",model="echo"}'] == 1


async def _all_decode(neuron: RunningNeuron, count: int) -> bool:
    return (await neuron.metrics()).get('neuron_sequences_running{model="echo"}', 0.0) == count


async def test_while_a_model_recovers_it_is_503_never_404(tmp_path: Path) -> None:
    """With Retry-After, in either phase of coming back; a second load request starts nothing (cases T6, L5)."""
    folder = write_model(tmp_path / "echo")
    models = [{"id": "echo", "source": str(folder), "preload_on": ["here"]}]
    async with running_neuron(models) as neuron:
        await neuron.until_status("loaded")
        write_model(folder, load_s=1.0)
        os.kill(neuron.engines()[0].pid, signal.SIGKILL)
        seen = set()
        while (await neuron.row())["loads"] == 1:
            refused = await neuron.chat({"reply": "x"})
            if refused.status == 200:
                break
            seen.add(refused.json["error"]["code"])
            assert refused.status == (500 if refused.json["error"]["code"] == "group_died" else 503)
            assert "retry-after" in refused.headers
            await neuron.post("/models/load", {"model_id": "echo"})
        assert seen
        assert seen <= {"model_recovering", "model_loading", "group_died"}
        await _recovered(neuron)
        assert len(neuron.engines()) == 1


@pytest.mark.parametrize("after", [0, 3])
async def test_a_step_that_hangs_is_killed_from_outside(faulty: RunningNeuron, after: int) -> None:
    """In prefill and while decoding, within the step's deadline; supervision does not need the process (T4)."""
    (engine,) = faulty.engines()
    answer = await faulty.chat({"reply": "hello", "hang_after": after}, stream=True)
    assert answer.content == "hello"[:after]
    assert answer.data[-1]["error"]["code"] == "group_died"
    assert "did not finish a step within 1 s" in answer.data[-1]["error"]["message"]
    await _recovered(faulty)
    assert not engine.is_running()
    assert (await faulty.chat({"reply": "back"})).status == 200
    assert (await faulty.metrics())['neuron_group_deaths_total{kind="step_timeout",model="echo"}'] == 1


async def test_an_idle_engine_that_stops_answering_is_found_out(faulty: RunningNeuron) -> None:
    """A stopped process answers no ping, and the next client need not find that out (case T4)."""
    (engine,) = faulty.engines()
    os.kill(engine.pid, signal.SIGSTOP)
    await _recovered(faulty)
    assert not engine.is_running()
    assert (await faulty.chat({"reply": "back"})).status == 200


async def test_a_daemon_that_was_paused_blames_no_engine(faulty: RunningNeuron) -> None:
    """A machine that stood still, or a debugger: what was not heard meanwhile was not silence (case T4)."""
    answer = asyncio.create_task(faulty.chat({"reply": "x" * 60, "step_s": 0.02}))
    await until(lambda: _all_decode(faulty, 1))
    for _ in range(2):  # while the engine works, and while it is idle
        faulty.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3.0)  # longer than a step may take
        faulty.process.send_signal(signal.SIGCONT)
        assert (await answer).json["choices"][0]["message"]["content"] == "x" * 60
    assert (await faulty.chat({"reply": "x"})).status == 200
    assert (await faulty.row())["loads"] == 1


async def test_long_prefill_is_no_hang(faulty: RunningNeuron) -> None:
    """As long as steps go by; the deadline is a step's, not a request's."""
    slow = asyncio.create_task(faulty.chat({"reply": "slow", "prefill_s": 2.5}))
    busy = await faulty.chat({"reply": "x" * 60, "step_s": 0.05})
    assert busy.status == 200
    assert (await slow).json["choices"][0]["message"]["content"] == "slow"


async def test_a_model_that_dies_again_and_again_is_given_up_with_its_reason(tmp_path: Path) -> None:
    """Started a bounded number of times, then `failed` and 503; an operator's load starts it anew (case T6)."""
    folder = write_model(tmp_path / "echo")
    models = [{"id": "echo", "source": str(folder), "preload_on": ["here"]}]
    async with running_neuron(models, HASTY, load_timeout_s=5.0) as neuron:
        await neuron.until_status("loaded")
        write_model(folder, load="die")
        await neuron.chat({"reply": "x", "die_after": 0})
        assert (await neuron.row())["status"] in {"recovering", "loading"}
        failed = await neuron.until_status("failed", timeout_s=90)
        assert failed["failure"]["message"] == "rank 0 exited with code 17"
        refused = await neuron.chat({})
        assert (refused.status, refused.json["error"]["code"]) == (503, "model_failed")
        assert neuron.engines() == []
        write_model(folder)
        await neuron.post("/models/load", {"model_id": "echo"})
        await neuron.until_status("loaded")
        await neuron.chat({"reply": "x", "die_after": 0})
        assert (await neuron.row())["status"] in {"recovering", "loading"}


async def test_a_model_that_recovers_can_be_unloaded(faulty: RunningNeuron) -> None:
    """In whatever phase it is, nothing is left."""
    for _ in range(2):
        await faulty.until_status("loaded")
        await faulty.chat({"reply": "x", "die_after": 0})
    assert (await faulty.post("/models/unload", {"model_id": "echo"})).json["status"] == "unloaded"
    assert faulty.engines() == []


async def test_replies_to_older_requests_are_dropped(tmp_path: Path) -> None:
    """Each is matched by its sequence number; a stale one answers nobody (case T1)."""
    models = [{"id": "echo", "source": str(write_model(tmp_path / "echo", load="stale")), "preload_on": ["here"]}]
    async with running_neuron(models) as neuron:
        assert (await neuron.until_status("loaded"))["context"] == 2048
        answer = await neuron.chat({"reply": "mine", "strangers": True})
        assert answer.json["choices"][0]["message"]["content"] == "mine"
        assert (await neuron.row())["loads"] == 1


async def test_an_engine_that_speaks_nonsense_is_ended(faulty: RunningNeuron) -> None:
    """What cannot be read cannot be trusted: the group is started anew."""
    answer = await faulty.chat({"reply": "x" * 100, "step_s": 0.05, "garbage": True})
    assert (answer.status, answer.json["error"]["code"]) == (500, "group_died")
    await _recovered(faulty)
    assert (await faulty.chat({"reply": "back"})).status == 200


async def test_a_daemon_that_cannot_end_a_group_ends_itself(echo_model: Path) -> None:
    """Not 0, with its reason in the log: it is started anew by who watches it, and the rank dies with it (case T4)."""
    models = [{"id": "echo", "source": str(echo_model), "preload_on": ["here"]}]
    async with running_neuron(models, IMMORTAL, step_timeout_s=1.0) as neuron:
        await neuron.until_status("loaded")
        (engine,) = neuron.engines()
        answer = await neuron.chat({"reply": "x", "hang_after": 0})
        assert (answer.status, answer.json["error"]["code"]) == (500, "group_died")
        assert await asyncio.wait_for(neuron.process.wait(), 20.0) == os.EX_SOFTWARE
        assert f"process {engine.pid}, outlives SIGKILL" in (neuron.folder / "log").read_text()
        await asyncio.to_thread(engine.wait, 5)


async def test_an_engine_dies_with_a_daemon_that_is_killed(echo_model: Path) -> None:
    """No process keeps the memory of a daemon that is gone."""
    models = [{"id": "echo", "source": str(echo_model), "preload_on": ["here"]}]
    async with running_neuron(models) as neuron:
        await neuron.until_status("loaded")
        (engine,) = neuron.engines()
        neuron.process.kill()
        await neuron.process.wait()
        await asyncio.to_thread(engine.wait, 5)
