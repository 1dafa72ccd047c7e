"""What is left of clients, engines and daemons that went away in the middle: nothing that harms those who follow."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import psutil
import pytest
from neuron_process import CHAT, COMPLETIONS, MESSAGES, RunningNeuron, chat_body, running_neuron, until
from scripted_model import write_model

LEAVING = 200


async def test_clients_that_leave_at_any_moment_leave_nothing(echo_model: Path) -> None:
    """No seat, no block, no sequence, no connection, after hundreds of requests cut anywhere (cases S8, L9)."""
    models = [{"id": "echo", "source": str(echo_model), "preload_on": ["here"]}]
    async with running_neuron(models, max_sequences=4, queue_limit=4) as neuron:
        await neuron.until_status("loaded")
        daemon, chance = psutil.Process(neuron.process.pid), random.Random(5)
        await asyncio.gather(*(_leave(neuron, chance) for _ in range(20)))
        await neuron.until_idle()
        await until(lambda: _connections(daemon, 1))
        before = daemon.num_fds()
        for _ in range(LEAVING // 20):
            await asyncio.gather(*(_leave(neuron, chance) for _ in range(20)))
        await neuron.until_idle()
        await until(lambda: _connections(daemon, 1))
        assert daemon.num_fds() <= before
        assert (await neuron.metrics())['neuron_sequences_running{model="echo"}'] == 0
        assert (await neuron.chat({"reply": "served"})).status == 200


async def _leave(neuron: RunningNeuron, chance: random.Random) -> None:
    """Ask for something, by any route, and go after a moment that is anywhere in the answer."""
    order = {"reply": "x" * 30, "step_s": 0.005, "prefill_s": chance.choice([0.0, 0.1, 30.0])}
    body = chat_body(order, stream=chance.random() < 0.6, max_tokens=40)
    path = chance.choice([CHAT, MESSAGES, COMPLETIONS])
    if path == COMPLETIONS:
        body["prompt"] = [each["content"] for each in body.pop("messages")] * chance.choice([1, 2])
    elif path == CHAT:
        body["n"] = chance.choice([1, 1, 3])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(chance.uniform(0.0, 0.3)):
            await neuron.post(path, body, Connection="close")


async def _connections(daemon: psutil.Process, at_most: int) -> bool:
    """The ones left are those that the test itself keeps alive."""
    return sum(each.status == psutil.CONN_ESTABLISHED for each in daemon.net_connections("tcp")) <= at_most


async def test_a_fork_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """Its engines go with it, none lives on unseen; what was loaded comes back, and other models can be loaded."""
    model = {"source": str(write_model(tmp_path / "echo"))}
    async with running_neuron([{"id": "echo", "preload_on": ["here"], **model}, {"id": "other", **model}]) as neuron:
        await neuron.until_status("loaded")
        (engine,) = neuron.engines()
        server = engine.parent()
        engine.suspend()  # so that it cannot end itself
        server.kill()
        await until(lambda: _gone(engine), 5.0)
        await neuron.post("/models/load", {"model_id": "other"})
        await neuron.until_status("loaded", "other")
        await neuron.until_status("loaded", "echo")
        assert (await neuron.chat({"reply": "x"})).status == 200


async def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_what_a_killed_daemon_left_is_in_nobodys_way(echo_model: Path, tmp_path: Path) -> None:
    """Sockets and folders of a load that never ended, under the names that are given first."""
    left = tmp_path / "run"
    (left / "text/echo").mkdir(parents=True)
    (left / "text/echo/tokenizer.json").write_text("{")
    (left / "g1.ipc").touch()
    models = [{"id": "echo", "source": str(echo_model), "preload_on": ["here"]}]
    async with running_neuron(models, runtime_dir=str(left)) as neuron:
        await neuron.until_status("loaded")
        assert [path.name for path in left.iterdir()] == ["g1.ipc"]
        with pytest.raises(AssertionError, match="cannot listen"):  # a second daemon, started by mistake
            async with running_neuron([], runtime_dir=str(left), port=int(neuron.url.rpartition(":")[2])):
                pass
        assert [path.name for path in left.iterdir()] == ["g1.ipc"]
        assert (await neuron.chat({"reply": "x"})).status == 200


async def test_a_runtime_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """With its key; the daemon does not start."""
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError, match=r"neuron\.runtime_dir.*file/run"):
        async with running_neuron([], runtime_dir=str(tmp_path / "file/run")):
            pass
