"""SIGHUP while streams run: the files change under them, and they do not notice."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

import pytest
from gateway_process import CHAT, MESSAGES, RunningGateway, model_entry, running, until, write_config
from scripted_neuron import Fault, scripted

STAYS, GOES, COMES = "model-stays", "model-goes", "model-comes"
OLD_KEY, NEW_KEY = "old-key-0123456789", "new-key-0123456789"
STREAMS = 24


def _write_keys(folder: Path, key: str) -> None:
    digest = hashlib.sha256(key.encode()).hexdigest()
    (folder / "keys.toml").write_text(f'[[keys]]\nname = "{key[:3]}"\nsha256 = "{digest}"\n')


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _ports(gateway: RunningGateway) -> tuple[int, int]:
    return int(gateway.url.rpartition(":")[2]), int(gateway.metrics_url.rpartition(":")[2])


async def _ask(
    gateway: RunningGateway, model: str, key: str, path: str = CHAT, stream: bool = False
) -> tuple[int, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stream": stream}
    headers = {"authorization": f"Bearer {key}"}
    async with gateway.http.post(gateway.url + path, json=body, headers=headers) as response:
        return response.status, await response.text()


async def _reload(gateway: RunningGateway, event: str = "reloaded") -> None:
    before = sum(1 for line in gateway.log if line["event"] == event)
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: sum(1 for line in gateway.log if line["event"] == event) > before)


async def test_streams_run_to_their_end_while_models_neurons_and_keys_change(tmp_path: Path) -> None:
    """Also those of a model, a neuron and a key that are gone; what comes after is judged by the new files, and a
    neuron that stays is not met anew."""
    _write_keys(tmp_path, OLD_KEY)
    async with AsyncExitStack() as resources:
        stays = await resources.enter_async_context(scripted("stays", STAYS, GOES))
        goes = await resources.enter_async_context(scripted("goes", STAYS, GOES))
        comes = await resources.enter_async_context(scripted("comes", COMES))
        neurons, entries = [stays, goes], [model_entry(STAYS), model_entry(GOES)]
        gateway = await resources.enter_async_context(running(tmp_path, neurons, entries))
        for neuron in neurons:
            neuron.fault, neuron.pace_s = Fault.SLOW, 0.25
        streams = [
            asyncio.create_task(_ask(gateway, (STAYS, GOES)[n % 2], OLD_KEY, (CHAT, MESSAGES)[n // 2 % 2], stream=True))
            for n in range(STREAMS)
        ]
        await until(lambda: len(stays.sent) + len(goes.sent) == STREAMS)
        assert goes.sent
        _write_keys(tmp_path, NEW_KEY)
        write_config(tmp_path, [stays, comes], [model_entry(STAYS), model_entry(COMES)], _ports(gateway))
        await _reload(gateway)
        assert not any(stream.done() for stream in streams)
        assert (await _ask(gateway, COMES, OLD_KEY))[0] == 401
        assert (await _ask(gateway, GOES, NEW_KEY))[0] == 404
        assert (await _ask(gateway, COMES, NEW_KEY))[0] == 200
        for status, text in await asyncio.gather(*streams):
            assert (status, text.endswith(("data: [DONE]\n\n", 'data: {"type": "message_stop"}\n\n'))) == (200, True), (
                text
            )
        assert [line["neuron"] for line in gateway.log if line["event"] == "neuron_up"] == ["stays", "goes", "comes"]


async def test_a_reload_does_not_wait_for_the_polls_of_a_neuron_that_hangs(tmp_path: Path) -> None:
    """What is new in the files is true at once; a neuron that stays is asked in its own rhythm."""
    async with scripted("slow", STAYS) as slow, running(tmp_path, [slow], [model_entry(STAYS)]) as gateway:
        slow.poll_delay_s = 30
        await until(lambda: slow.polls > 1)
        write_config(tmp_path, [slow], [model_entry(STAYS), model_entry(COMES)], _ports(gateway))
        async with asyncio.timeout(1):
            await _reload(gateway)
        assert (await gateway.get(f"/v1/models/{COMES}"))["id"] == COMES


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("cortex.toml", '[gateway]\nlisten = "127.0.0.1:1"\nspeed = 9\n', "gateway.speed"),
        ("models.toml", '[[models]]\nid = "x"\n', "models.0.source"),
        ("keys.toml", '[[keys]]\nname = "x"\nsha256 = "y"\n', "keys.0.sha256"),
        ("models.toml", "not toml", "not TOML"),
    ],
)
async def test_a_bad_file_changes_nothing_and_is_named(tmp_path: Path, file: str, text: str, named: str) -> None:
    """All three are read before any is taken up (L11): the good ones wait for the bad one. Streams do not notice."""
    _write_keys(tmp_path, OLD_KEY)
    async with scripted("one", STAYS) as neuron, running(tmp_path, [neuron], [model_entry(STAYS)]) as gateway:
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.1
        stream = asyncio.create_task(_ask(gateway, STAYS, OLD_KEY, stream=True))
        await until(lambda: len(neuron.sent) == 1)
        _write_keys(tmp_path, NEW_KEY)
        write_config(tmp_path, [neuron], [model_entry(STAYS), model_entry(COMES)], _ports(gateway))
        (tmp_path / file).write_text(text)
        await _reload(gateway, "reload_refused")
        problems = (await gateway.logged("reload_refused"))["problems"]
        assert any(file in line and named in line for line in problems), problems
        assert (await _ask(gateway, COMES, OLD_KEY))[0] == 404
        assert (await _ask(gateway, STAYS, NEW_KEY))[0] == 401
        assert (await _ask(gateway, STAYS, OLD_KEY))[0] == 200
        assert (await stream)[1].endswith("data: [DONE]\n\n")


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256((folder / name).read_bytes()) for name in ("cortex.toml", "models.toml", "keys.toml")}


async def test_the_digests_are_of_what_runs_and_not_of_what_lies_there(tmp_path: Path) -> None:
    """From the start, after a reload that is taken up, and not before it nor after one that is refused."""
    _write_keys(tmp_path, OLD_KEY)
    async with scripted("one", STAYS) as neuron, running(tmp_path, [neuron], [model_entry(STAYS)]) as gateway:
        at_first = _digests(tmp_path)
        assert await gateway.get("/version") == {
            "version": version("cortex"), "release": None, "files": at_first, "awaits_restart": [],
        }  # fmt: skip
        _write_keys(tmp_path, NEW_KEY)
        (tmp_path / "models.toml").write_bytes(b"# of another kind of host\r\n[[models]]\r\nid = 'x'\r\n")
        assert (await gateway.get("/version"))["files"] == at_first
        await _reload(gateway, "reload_refused")
        assert (await gateway.get("/version"))["files"] == at_first
        (tmp_path / "models.toml").write_bytes(b"# of another kind of host\r\n")
        await _reload(gateway)
        assert (await gateway.get("/version"))["files"] == _digests(tmp_path) != at_first


async def test_without_keys_there_is_no_digest_of_them(tmp_path: Path) -> None:
    """What was not read has none; a file that merely lies there counts for nothing."""
    async with scripted("one", STAYS) as neuron, running(tmp_path, [neuron], [model_entry(STAYS)]) as gateway:
        _write_keys(tmp_path, OLD_KEY)
        await _reload(gateway)
        assert set((await gateway.get("/version"))["files"]) == {"cortex.toml", "models.toml"}


async def test_what_a_reload_cannot_take_up_awaits_a_restart_until_it_is_taken_back(tmp_path: Path) -> None:
    """Also over further reloads; what the next reload does take up is not named."""
    async with scripted("one", STAYS) as neuron, running(tmp_path, [neuron], [model_entry(STAYS)]) as gateway:
        api, metrics = _ports(gateway)
        for ports, more, awaited in (
            ((api, 1), {"body_limit_mb": 3}, ["gateway.body_limit_mb", "gateway.metrics_listen"]),
            ((api, 1), {"queue_limit": 7}, ["gateway.metrics_listen"]),
            ((api, metrics), {}, []),
        ):
            write_config(tmp_path, [neuron], [model_entry(STAYS)], ports, **more)
            for _ in range(2):
                await _reload(gateway)
                assert (await gateway.get("/version"))["awaits_restart"] == awaited


async def test_a_gateway_says_of_which_release_it_is(tmp_path: Path) -> None:
    """Of the environment it was started from, as it was then, though another be put in its place meanwhile."""
    program = _environment(tmp_path / "environment")
    (tmp_path / "environment" / "release").write_text("2026-11-25.1\n")
    async with (
        scripted("one", STAYS) as neuron,
        running(tmp_path, [neuron], [model_entry(STAYS)], program=program) as gateway,
    ):
        (tmp_path / "environment" / "release").write_text("2026-11-26.1\n")
        assert (await gateway.get("/version"))["release"] == "2026-11-25.1"


def _environment(folder: Path) -> Path:
    """A Python environment with what this one has; its cortex-gateway."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    mine = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "all.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in mine))
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    program = folder / "bin" / "cortex-gateway"
    program.write_text(f"#!{folder}/bin/python\nfrom cortex_gateway.cli import main\nraise SystemExit(main())\n")
    program.chmod(0o755)
    return program


async def test_many_reloads_in_a_row_under_streams_end_with_the_last_files(tmp_path: Path) -> None:
    """Signals that come while one is being taken up are not lost, and none of them breaks a stream."""
    async with scripted("one", STAYS) as neuron, running(tmp_path, [neuron], [model_entry(STAYS)]) as gateway:
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.2
        streams = [asyncio.create_task(gateway.text(STAYS)) for _ in range(8)]
        await until(lambda: len(neuron.sent) == 8)
        for number in range(20):
            entries = [model_entry(STAYS), model_entry(f"model-{number}")]
            write_config(tmp_path, [neuron], entries, _ports(gateway))
            gateway.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while "model-19" not in str(await gateway.get("/v1/models")):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.02)
        assert "model-18" not in str(await gateway.get("/v1/models"))
        for text in await asyncio.gather(*streams):
            assert text.endswith("data: [DONE]\n\n")
