"""The operator's commands as they are typed: the installed `cortex`, an inventory on disk, a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from gateway_process import BIN, RunningGateway, model_entry, until
from operator_access import ADMIN_KEY, CLIENT_KEY, operated, see
from scripted_neuron import Fault, scripted

MODEL, OTHER = "model-a", "model-b"
ENTRIES = [model_entry(MODEL, aliases=["alias-a"]), model_entry(OTHER)]
DEADLINE_S = 60.0
COMMANDS: list[list[str]] = [
    ["explain", MODEL], ["load", MODEL], ["unload", MODEL], ["pin", MODEL], ["unpin", MODEL], ["drain", "one"],
    ["undrain", "one"], ["logs"],
]  # fmt: skip


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


async def start(*arguments: str | Path, **environment: str) -> asyncio.subprocess.Process:
    """The command, with nothing of the caller's environment that says which key or how wide."""
    known = {name: value for name, value in os.environ.items() if name not in ("CORTEX_ADMIN_KEY", "COLUMNS")}
    return await asyncio.create_subprocess_exec(
        BIN / "cortex", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**known, "PYTHONWARNINGS": "error", **environment},
    )  # fmt: skip


async def cortex(*arguments: str | Path, **environment: str) -> Finished:
    process = await start(*arguments, **environment)
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    assert ADMIN_KEY not in (out + err).decode()
    return Finished(process.returncode, out.decode(), err.decode())


def by_url(gateway: RunningGateway) -> Callable[..., Any]:
    """Commands that name the gateway by its URL, with the key in the environment."""

    async def ask(*arguments: str) -> Finished:
        return await cortex(*arguments, "--gateway", gateway.url, CORTEX_ADMIN_KEY=ADMIN_KEY)

    return ask


async def on_a_terminal(gateway: RunningGateway, *arguments: str) -> Finished:
    """A command whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            BIN / "cortex", *arguments, "--gateway", gateway.url, stdout=asyncio.subprocess.PIPE, stderr=theirs,
            env={**os.environ, "CORTEX_ADMIN_KEY": ADMIN_KEY, "TERM": "xterm", "COLUMNS": "100"},
        )  # fmt: skip
        os.close(theirs)
        out, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        shown = await asyncio.to_thread(_read_all, ours)
    finally:
        os.close(ours)
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), shown.decode())


def write_inventory(folder: Path, gateways: dict[str, str], admin_key: str = ADMIN_KEY) -> Path:
    """Gateways by name and listen address, and a neuron that no command asks."""
    hosts = {
        name: {"gateway_listen": listen, "gateway_metrics_listen": f"127.0.0.1:{free_port()}"}
        for name, listen in gateways.items()
    }
    everything = {
        "vars": {"ansible_connection": "local", "ansible_host": "127.0.0.1"},
        "children": {"gateway": {"hosts": hosts}, "neurons": {"hosts": {"one": {"ansible_host": "192.0.2.1"}}}},
    }
    (folder / "group_vars" / "gateway").mkdir(parents=True)
    (folder / "hosts.yml").write_text(json.dumps({"all": everything}))
    (folder / "group_vars" / "gateway" / "vault.yml").write_text(json.dumps({"gateway_admin_key": admin_key}))
    return folder


def encrypt(vault: Path, password: Path) -> None:
    command = [BIN / "ansible-vault", "encrypt", "--vault-password-file", password, vault]
    subprocess.run(command, check=True, capture_output=True)


def listen_of(gateway: RunningGateway) -> str:
    return gateway.url.removeprefix("http://")


async def test_every_command_does_what_it_says(tmp_path: Path) -> None:
    """Load, explain, pin, unpin, drain, undrain, unload and logs, one after the other, in words and exit code 0."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        ask = by_url(gateway)
        explained = await ask("explain", "alias-a")
        assert (explained.code, explained.err) == (0, "")
        assert explained.out.startswith("model-a: load on one")
        assert await ask("load", "alias-a") == Finished(0, "model-a is loaded on one\n", "")
        assert await ask("load", MODEL, "--on", "one") == Finished(0, "model-a is loaded on one already\n", "")
        assert (await ask("explain", MODEL)).out.startswith("model-a: forward on one")
        assert await ask("pin", MODEL) == Finished(0, "model-a is pinned on one\n", "")
        assert neuron.models[MODEL]["pinned"] is True
        assert (await ask("unpin", MODEL, "--on", "one")).code == 0
        assert neuron.models[MODEL]["pinned"] is False
        assert await ask("drain", "one") == Finished(0, "neuron one is draining\n", "")
        assert (await ask("explain", MODEL)).code == 1
        assert await ask("undrain", "one") == Finished(0, "neuron one is ready\n", "")
        assert await ask("unload", MODEL) == Finished(0, "model-a is unloaded from one\n", "")
        logged = await ask("logs")
        assert (logged.code, logged.err) == (0, "")
        lines = [line.split() for line in logged.out.splitlines()]
        assert lines[0] == ["TIME", "MODEL", "DECISION", "NEURON", "EVICTS", "REQUEST", "REASON"]
        assert [line[2:5] for line in lines[1:]] == [
            [MODEL, "load", "one"],
            [MODEL, "forward", "one"],
            [MODEL, "forward", "one"],
        ]
        assert (await ask("drain")).code == 0
        assert (await see(gateway, "status"))["gateway"]["gate"] == "draining"
        assert (await ask("undrain")).code == 0
        assert (await see(gateway, "status"))["gateway"]["gate"] == "open"


async def test_json_is_what_the_api_says(tmp_path: Path) -> None:
    """One document a command; of logs one a line, with the gateway's name."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        ask = by_url(gateway)
        assert json.loads((await ask("pin", MODEL, "--json")).out) == {
            "message": "model-a is pinned on one",
            "neurons": ["one"],
        }
        assert json.loads((await ask("explain", MODEL, "--json")).out) == await see(gateway, f"explain?model={MODEL}")
        await gateway.text(MODEL)
        await gateway.text(MODEL)
        rows = [json.loads(line) for line in (await ask("logs", "--json", "-n", "1")).out.splitlines()]
        (newest,) = (await see(gateway, "decisions?limit=1"))["data"]
        assert rows == [newest | {"gateway": gateway.url}]


async def test_whatever_is_wrong_with_the_key_is_said_with_what_to_do(tmp_path: Path) -> None:
    """No key, a wrong one, a client's: exit code 2, the reason, and where the key was found; never the key."""
    key_file = tmp_path / "key"
    key_file.write_text(f"{ADMIN_KEY}x\n")
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        for command in COMMANDS:
            ask = partial(cortex, *command, "--gateway", gateway.url)
            without, wrong, clients = await asyncio.gather(
                ask(), ask("--admin-key-file", key_file), ask(CORTEX_ADMIN_KEY=CLIENT_KEY)
            )
            assert [(each.code, each.out) for each in (without, wrong, clients)] == [(2, "")] * 3
            assert "set CORTEX_ADMIN_KEY, or give --admin-key-file" in without.err
            assert f"the key was that of {key_file}" in wrong.err
            assert "the key was that of CORTEX_ADMIN_KEY" in clients.err
        assert (neuron.loads, neuron.unloads, neuron.state) == ([], [], "ready")


async def test_where_nobody_listens_it_says_so_and_exits_3() -> None:
    """With the address and the guess that helps."""
    url = f"http://127.0.0.1:{free_port()}"
    for command in COMMANDS:
        found = await cortex(*command, "--gateway", url, CORTEX_ADMIN_KEY=ADMIN_KEY)
        words = f"gateway {url}: connection refused; is cortex-gateway running there?\n"
        assert found == Finished(3, "", words), command


async def test_what_the_gateway_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    """Exit code 1: unknown models and neurons, a model in use, no room."""
    entries = [*ENTRIES, model_entry("huge", vram_mb=10**6)]
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], entries) as gateway:
        ask = by_url(gateway)
        refused = {
            ("load", "nonesuch"): "no model 'nonesuch'",
            ("explain", "nonesuch"): "no model 'nonesuch'",
            ("logs", "--model", "nonesuch"): "no model 'nonesuch'",
            ("load", MODEL, "--on", "two"): "no neuron 'two'; there is: one",
            ("drain", "two"): "no neuron 'two'; there is: one",
            ("load", "huge"): "no neuron has room",
            ("pin", OTHER): "load it, then pin it",
        }
        for arguments, words in refused.items():
            found = await ask(*arguments)
            assert (found.code, found.out) == (1, ""), arguments
            assert words in found.err
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.5
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(neuron.sent) == 1)
        busy = await ask("unload", MODEL)
        assert (busy.code, neuron.unloads) == (1, [])
        assert "requests under way (1 on one)" in busy.err
        assert (await ask("unload", MODEL, "--force")).code == 0
        assert neuron.unloads == [MODEL]
        assert "[DONE]" in await streaming


async def test_the_inventory_says_where_and_has_the_key_in_its_vault(tmp_path: Path) -> None:
    """-i alone is enough, with the vault's password; without it the vault is what is wrong."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        inventory = write_inventory(tmp_path / "inventory", {"gw": listen_of(gateway)})
        password = tmp_path / "password"
        password.write_text("open sesame")
        vault = inventory / "group_vars" / "gateway" / "vault.yml"
        encrypt(vault, password)
        assert ADMIN_KEY not in vault.read_text()
        found = await cortex("explain", MODEL, "-i", inventory, "--vault-password-file", password)
        assert (found.code, found.err) == (0, "")
        assert found.out.startswith("model-a: forward on one")
        locked = await cortex("explain", MODEL, "-i", inventory)
        assert (locked.code, locked.out) == (2, "")
        assert "vault" in locked.err.lower()


async def test_an_inventory_with_a_digest_alone_asks_for_the_key(tmp_path: Path) -> None:
    """A digest opens nothing: the key comes from the environment, and its own is not sent."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        digest = f"sha256:{'0' * 64}"
        inventory = write_inventory(tmp_path / "inventory", {"gw": listen_of(gateway)}, admin_key=digest)
        found = await cortex("logs", "-i", inventory)
        assert found.code == 2
        assert "only the digest of its admin key for gateway gw" in found.err
        assert (await cortex("logs", "-i", inventory, CORTEX_ADMIN_KEY=ADMIN_KEY)).code == 0


async def test_of_several_gateways_one_that_answers_is_asked(tmp_path: Path) -> None:
    """A dead one is passed over; draining a gateway is for the one that is named, and for no other."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        scripted("one", MODEL) as neuron,
        operated(tmp_path / "a", [neuron], ENTRIES) as first,
        operated(tmp_path / "b", [neuron], ENTRIES) as second,
    ):
        gateways = {"dead": f"127.0.0.1:{free_port()}", "gw1": listen_of(first), "gw2": listen_of(second)}
        inventory = write_inventory(tmp_path / "inventory", gateways)
        assert (await cortex("pin", MODEL, "-i", inventory)).out == "model-a is pinned on one\n"
        assert (await cortex("explain", MODEL, "-i", inventory, "--gateway", "dead")).code == 3
        for arguments in (["drain"], ["drain", "--gateway"]):
            unclear = await cortex(*arguments, "-i", inventory)
            assert (unclear.code, unclear.out) == (2, "")
        assert "there is dead, gw1, gw2" in unclear.err
        assert (await cortex("drain", "--gateway", "gw3", "-i", inventory)).err.startswith("no gateway 'gw3'")
        assert (await cortex("drain", "--gateway", "gw2", "-i", inventory)).code == 0
        gates = [(await see(gateway, "status"))["gateway"]["gate"] for gateway in (first, second)]
        assert gates == ["open", "draining"]
        await first.text(MODEL)
        assert (await cortex("undrain", "--gateway", "gw2", "-i", inventory)).code == 0
        await second.text(MODEL)
        logged = await cortex("logs", "-i", inventory)
        assert logged.code == 0
        assert "gateway dead" in logged.err
        assert [line.split()[0] for line in logged.out.splitlines()] == ["GATEWAY", "gw1", "gw2"]


async def test_a_load_without_waiting_answers_once_it_is_under_way(tmp_path: Path) -> None:
    """The operator's terminal is free; the load goes on."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 30
        found = await by_url(gateway)("load", MODEL, "--no-wait")
        assert found == Finished(0, "model-a is being loaded on one\n", "")
        await until(lambda: len(neuron.loads) == 1)


async def test_a_long_load_shows_its_progress_on_a_terminal(tmp_path: Path) -> None:
    """Where it is loaded, what is being done, and how far; and nothing of it in what a script reads."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 3
        found = await on_a_terminal(gateway, "load", MODEL)
        assert (found.code, found.out) == (0, "model-a is loaded on one\n")
        assert "model-a on one: weights" in found.err
        assert "50%" in found.err


async def test_names_and_words_from_elsewhere_are_no_orders_to_a_terminal(tmp_path: Path) -> None:
    """Markup in a model's name ends no command in a traceback; a neuron's words cannot move the cursor."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        for name in ("[/none]", "[bold]x"):
            found = await on_a_terminal(gateway, "load", name)
            assert found.code == 1
            assert found.err.endswith(f"no model '{name}'; there is: model-a, model-b\r\n")
        neuron.name, neuron.load_refusal = "one \x1b]0;title\x07\x1b[2J\x9b2J", "no_capacity"
        refused = await by_url(gateway)("load", MODEL)
        assert refused.err == "neuron one does not load 'model-a': one ]0;title [2J 2J says no\n"


@pytest.mark.parametrize("url", ["http://", "ftp://x", "http://[::1", "http://x:99999", "http://x/?a=b"])
async def test_a_url_that_is_none_is_a_mistake_of_the_command_line(url: str) -> None:
    """Not a gateway that does not answer."""
    found = await cortex("explain", MODEL, "--gateway", url, CORTEX_ADMIN_KEY=ADMIN_KEY)
    assert (found.code, found.out) == (2, "")
    assert found.err == f"'{url}' is no URL of a gateway, such as http://gateway:31313\n"


async def test_a_load_that_is_interrupted_goes_on(tmp_path: Path) -> None:
    """Ctrl-C ends the waiting, says so, and exits 130."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 1.5
        process = await start("load", MODEL, "--gateway", gateway.url, CORTEX_ADMIN_KEY=ADMIN_KEY)
        await until(lambda: len(neuron.loads) == 1)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 130
        assert err.decode() == "the load goes on; cortex load model-a waits for it again\n"
        assert (await by_url(gateway)("load", MODEL)).out.startswith("model-a is loaded on one")
        assert len(neuron.loads) == 1


async def test_logs_are_followed(tmp_path: Path) -> None:
    """New decisions come as they are taken, each once; Ctrl-C ends it with 130."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        await gateway.text(MODEL)
        process = await start("logs", "--follow", "--json", "--gateway", gateway.url, CORTEX_ADMIN_KEY=ADMIN_KEY)
        assert process.stdout is not None
        try:
            ids = [json.loads(await _line(process.stdout))["request_id"]]
            for _ in range(3):
                await gateway.text(MODEL)
                ids.append(json.loads(await _line(process.stdout))["request_id"])
            assert len(set(ids)) == 4
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert (process.returncode, rest) == (130, b"")


async def test_help_has_examples_and_exit_codes() -> None:
    """Of each command."""
    for command in COMMANDS:
        shown = await cortex(command[0], "--help")
        assert shown.code == 0
        assert f"  cortex {command[0]} -i inventory/mine" in shown.out
        assert "exit codes:" in shown.out
    assert (await cortex("explain")).code == 2
    assert "say which fleet" in (await cortex("explain", MODEL)).err


async def _line(stream: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(stream.readline(), DEADLINE_S)


def _read_all(terminal: int) -> bytes:
    """What was written to it until the writer has closed it."""
    data = b""
    try:
        while chunk := os.read(terminal, 65536):
            data += chunk
    except OSError:  # how Linux says that nobody has the other end open
        pass
    return data
