"""SIGHUP while models answer: the catalogue changes under them, and only those notice that it concerns."""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from neuron_process import RunningNeuron, running_neuron, until, write_models, write_settings
from scripted_model import write_model

LOAD = "/models/load"
LONG: dict[str, Any] = {"reply": "x" * 60, "step_s": 0.03}


def _model(path: Path, model_id: str, **entry: Any) -> dict[str, Any]:
    return {"id": model_id, "source": str(path), **entry}


def _port(neuron: RunningNeuron) -> int:
    return int(neuron.url.rpartition(":")[2])


async def _stream(neuron: RunningNeuron, model: str) -> asyncio.Task[Any]:
    """A long answer of it that is under way."""
    answer = asyncio.create_task(neuron.chat(LONG, model, stream=True))

    async def seated() -> bool:
        return bool((await neuron.health(model))["in_flight"])

    await until(seated)
    return answer


async def _code(neuron: RunningNeuron, model: str) -> str:
    """What becomes of a short request: ok, or the error's code."""
    answer = await neuron.chat({"reply": "y"}, model)
    return "ok" if answer.status == 200 else str(answer.json["error"]["code"])


async def _is_known(neuron: RunningNeuron, model: str) -> bool:
    return any(row["id"] == model for row in await neuron.get("/models"))


async def _until_unknown(neuron: RunningNeuron, model: str) -> None:
    async def gone() -> bool:
        return not await _is_known(neuron, model)

    await until(gone)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def test_a_new_catalogue_touches_only_the_models_that_it_concerns(tmp_path: Path, echo_model: Path) -> None:
    """New ones are known and loaded, gone ones answer what they have begun and are unknown, changed ones are loaded
    anew; of another model no stream breaks and no process ends."""
    before = [_model(echo_model, name, preload_on=["here"]) for name in ("stays", "goes", "changes")]
    other = write_model(tmp_path / "other", vram_mb=9)
    after = [
        before[0],
        _model(other, "changes", preload_on=["here"]),
        _model(echo_model, "comes", preload_on=["here"]),
        _model(echo_model, "waits"),
    ]
    async with running_neuron(before) as neuron:
        for entry in before:
            await neuron.until_status("loaded", entry["id"])
        processes = {line["model"]: line["pids"] for line in neuron.logged("model_loaded")}
        streams = [await _stream(neuron, entry["id"]) for entry in before]
        write_models(neuron.folder, after)
        line = await neuron.reload()
        assert line["steps"] == [
            "drop goes", "renew changes", "take comes", "preload comes", "take waits",
        ]  # fmt: skip
        assert (await neuron.get("/health"))["state"] == "activating"
        assert [await _code(neuron, name) for name in ("stays", "goes", "changes")] == ["ok", "draining", "draining"]
        assert not any(stream.done() for stream in streams)
        await neuron.until_status("loaded", "comes")
        assert [await _code(neuron, name) for name in ("comes", "waits")] == ["ok", "unavailable"]
        assert [stream.content for stream in await asyncio.gather(*streams)] == [LONG["reply"]] * 3
        await _until_unknown(neuron, "goes")
        assert await _code(neuron, "goes") == "model_not_found"
        await neuron.until_status("loaded", "changes")
        row = await neuron.row("changes")
        assert (row["loads"], row["vram_used_mb"]) == (2, 9)
        assert (await neuron.row("stays"))["loads"] == 1
        assert set(processes["stays"]) <= {rank.pid for rank in neuron.engines()}
        assert len(neuron.engines()) == 3
        assert (await neuron.get("/health"))["state"] == "ready"
        series = await neuron.metrics()
        assert not [name for name in series if name.startswith("neuron_model_status") and 'model="goes"' in name]


async def test_names_and_sampling_are_taken_up_while_the_engine_runs(echo_model: Path) -> None:
    """No load, no new process; a name that is gone is free for another model."""
    first = _model(echo_model, "first", preload_on=["here"], aliases=["nick"], sampling={"temperature": 0.25})
    async with running_neuron([first]) as neuron:
        await neuron.until_status("loaded", "first")
        (engine,) = neuron.engines()
        assert _said(await neuron.chat({"tell_temperature": True}, "nick")) == "0.25"
        stream = await _stream(neuron, "first")
        changed = {**first, "aliases": ["other"], "sampling": {"temperature": 0.75}, "priority": 5, "preload_on": []}
        write_models(neuron.folder, [changed, _model(echo_model, "second", aliases=["nick"])])
        await neuron.reload()
        assert _said(await neuron.chat({"tell_temperature": True}, "other")) == "0.75"
        assert await _code(neuron, "nick") == "unavailable"  # it is the second's, which is not loaded
        assert (await stream).content == LONG["reply"]
        assert [rank.pid for rank in neuron.engines()] == [engine.pid]
        assert (await neuron.row("first"))["loads"] == 1
        engine.kill()  # what it is started with again is the new word, too
        await neuron.until_status("recovering", "first")
        await neuron.until_status("loaded", "first")
        assert _said(await neuron.chat({"tell_temperature": True}, "first")) == "0.75"


def _said(answer: Any) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("models.toml", '[[models]]\nid = "x"\n', "models.0.source"),
        ("models.toml", "not toml", "not TOML"),
        ("models.toml", None, "cannot be read"),
        ("neuron.toml", "[neuron]\nprot = 1\n", "neuron.prot"),
    ],
)
async def test_a_bad_file_changes_nothing_and_is_named(
    echo_model: Path, file: str, text: str | None, named: str
) -> None:
    """Both are read before either is taken up (case L11): the good one waits for the bad one."""
    stays = _model(echo_model, "stays", preload_on=["here"])
    async with running_neuron([stays]) as neuron:
        await neuron.until_status("loaded", "stays")
        stream, version = await _stream(neuron, "stays"), await neuron.get("/version")
        write_models(neuron.folder, [_model(echo_model, "comes")])
        if text is None:
            (neuron.folder / file).unlink()
        else:
            (neuron.folder / file).write_text(text)
        problems = (await neuron.reload("reload_refused"))["problems"]
        assert any(file in line and named in line for line in problems), problems
        assert [await _code(neuron, name) for name in ("stays", "comes")] == ["ok", "model_not_found"]
        assert (await stream).content == LONG["reply"]
        assert await neuron.get("/version") == version


async def test_settings_wait_for_a_restart_and_are_named(echo_model: Path) -> None:
    """By key and without values, for an environment may hold tokens; the catalogue beside them is taken up."""
    async with running_neuron([]) as neuron:
        config, models = neuron.folder / "neuron.toml", neuron.folder / "models.toml"
        known = {"neuron.toml": _digest(config), "models.toml": _digest(models)}
        assert (await neuron.get("/version"))["files"] == known
        config.write_text(f"# Nothing else is new.\n{config.read_text()}")
        await neuron.reload()
        assert neuron.logged("needs_restart") == []
        known["neuron.toml"] = _digest(config)
        assert (await neuron.get("/version"))["files"] == known
        write_settings(
            neuron.folder, port=_port(neuron), queue_limit=3, environment={"HF_TOKEN": "hf_canary"}, drained=True
        )
        write_models(neuron.folder, [_model(echo_model, "comes")])
        await neuron.reload()
        assert {line["key"] for line in neuron.logged("needs_restart")} == {
            "neuron.queue_limit", "neuron.environment", "neuron.drained",
        }  # fmt: skip
        assert "hf_canary" not in (neuron.folder / "log").read_text()
        assert await _is_known(neuron, "comes")
        assert (await neuron.get("/health"))["state"] == "ready"
        # It runs with the settings of before, and says so until it is started again.
        assert (await neuron.get("/version"))["files"] == known | {"models.toml": _digest(models)}
        await neuron.terminate()
        await neuron.start_again()
        assert (await neuron.get("/version"))["files"] == {
            "neuron.toml": _digest(config), "models.toml": _digest(models),
        }  # fmt: skip


async def test_a_model_that_comes_back_while_it_leaves_stays(echo_model: Path) -> None:
    """Two signals in a row: what was about to be unknown is known, and loaded again where it is to be here."""
    models = [_model(echo_model, "echo", preload_on=["here"])]
    async with running_neuron(models) as neuron:
        await neuron.until_status("loaded")
        stream = await _stream(neuron, "echo")
        write_models(neuron.folder, [])
        await neuron.reload()
        await neuron.until_status("draining")
        write_models(neuron.folder, models)
        await neuron.reload()
        assert (await stream).content == LONG["reply"]
        assert (await neuron.until_status("loaded"))["loads"] == 2
        assert await _code(neuron, "echo") == "ok"
        assert len(neuron.engines()) == 1


async def test_a_change_while_a_model_is_loaded_is_what_is_loaded(tmp_path: Path) -> None:
    """The load of the old entry is given up, and nothing of it is left."""
    slow, quick = write_model(tmp_path / "slow", load_s=30.0), write_model(tmp_path / "quick", vram_mb=3)
    async with running_neuron([_model(slow, "m")]) as neuron:
        await neuron.post(LOAD, {"model_id": "m"})
        write_models(neuron.folder, [_model(quick, "m")])
        await neuron.reload()
        assert (await neuron.until_status("loaded", "m"))["vram_used_mb"] == 3
        assert len(neuron.engines()) == 1


async def test_many_signals_and_loads_at_once_end_with_the_last_files(tmp_path: Path, echo_model: Path) -> None:
    """Nothing is loaded twice, nothing is left over, and a stream of another model does not notice."""
    sources = [write_model(tmp_path / str(number), vram_mb=number + 1) for number in range(9)]
    stays = _model(echo_model, "stays", preload_on=["here"])
    async with running_neuron([stays], drain_timeout_s=1.0) as neuron:
        await neuron.until_status("loaded", "stays")
        stream = await _stream(neuron, "stays")
        for number, source in enumerate(sources):
            others = [_model(source, "m", preload_on=["here"])] if number % 3 != 1 else []
            write_models(neuron.folder, [stays, *others])
            neuron.process.send_signal(signal.SIGHUP)
            await asyncio.gather(*(neuron.post(LOAD, {"model_id": "m"}) for _ in range(4)))
        await neuron.reload()

        async def settled() -> bool:
            row = await neuron.row("m")
            return (row["status"], row["vram_used_mb"], len(neuron.engines())) == ("loaded", len(sources), 2)

        await until(settled)
        assert (await stream).content == LONG["reply"]
        assert (await neuron.row("stays"))["loads"] == 1
        assert [line for line in neuron.log() if "traceback" in line] == []


async def test_a_drained_neuron_takes_a_catalogue_up_and_loads_once_it_is_undrained(
    tmp_path: Path, echo_model: Path
) -> None:
    """What had to be unloaded waits as preloads do."""
    async with running_neuron([_model(echo_model, "m", preload_on=["here"])]) as neuron:
        await neuron.until_status("loaded", "m")
        await neuron.post("/drain", {})
        other = write_model(tmp_path / "other", vram_mb=3)
        write_models(neuron.folder, [_model(other, "m", preload_on=["here"])])
        await neuron.reload()
        await neuron.until_status("unloaded", "m")
        await until(lambda: _waits(neuron))
        assert (await neuron.get("/health"))["state"] == "draining"
        assert (await neuron.post("/undrain", {})).json["state"] == "activating"
        assert (await neuron.until_status("loaded", "m"))["vram_used_mb"] == 3


async def _waits(neuron: RunningNeuron) -> bool:
    return [line["code"] for line in neuron.logged("preload_waits")] == ["draining"]


async def test_a_release_is_told_where_there_is_one(echo_model: Path) -> None:
    """The program's environment says which; none here. Program and protocol are told as ever."""
    async with running_neuron([]) as neuron:
        answer = await neuron.get("/version")
        assert (answer["release"], answer["protocol"] > 0) == (None, True)
        assert re.fullmatch(r"[0-9a-f]{64}", answer["files"]["models.toml"])
