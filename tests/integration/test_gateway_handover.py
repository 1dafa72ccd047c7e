"""SIGUSR2: another release takes the gateway's place, and no client notices."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from gateway_process import CHAT, MESSAGES, RunningGateway, model_entry, running, until, write_config
from notify_socket import NotifySocket
from scripted_neuron import Fault, ScriptedNeuron, scripted

MODEL, SLOW_MODEL = "model-a", "model-slow"
CLIENTS = 8
ADMIN_KEY = "an-admin-key-for-tests"
AS_IT_IS = ""
SOON_TIRED = "from cortex_serving import server; server._SILENT_S = 1.0"
IMPATIENT = "from cortex_gateway.processes import successor; successor.TIMEOUT_S = 3"
HANGS = "import time; time.sleep(3600)"
HANGS_LATER = (
    "import asyncio; from cortex_gateway import gateway; gateway.serve = lambda *held: asyncio.sleep(3600, held)"
)
DIES = "sys.exit(3)"
DIES_LATER = "import os; from cortex_gateway import gateway; gateway.serve = lambda *_: os._exit(3)"
PROGRAM = """#!{python}
import sys
from functools import partial
from cortex_serving import logs
logs.configure = partial(logs.configure, release={number})
{oddity}
from cortex_gateway.cli import main
sys.exit(main())
"""


@dataclass
class Host:
    """A gateway at a path that is a link to one release or another; `pid` is the process that is the gateway now."""

    gateway: RunningGateway
    neurons: list[ScriptedNeuron]
    pid: int

    def install(self, number: int, oddity: str = AS_IT_IS) -> None:
        """Have the link lead to a release whose program does `oddity` before all else."""
        install(self.gateway.folder, number, oddity)

    def configure(self, **settings: Any) -> None:
        """Write the files anew."""
        ports = (int(url.rpartition(":")[2]) for url in (self.gateway.url, self.gateway.metrics_url))
        entries = [model_entry(MODEL), model_entry(SLOW_MODEL)]
        write_config(self.gateway.folder, self.neurons, entries, (next(ports), next(ports)), **settings)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines."""
        return [line for line in self.gateway.log if line["event"] == name]

    async def signal_until(self, event: str) -> dict[str, Any]:
        """Send SIGUSR2, and wait for one more of the event."""
        before = len(self.events(event))
        os.kill(self.pid, signal.SIGUSR2)
        await until(lambda: len(self.events(event)) > before, timeout_s=30)
        return self.events(event)[-1]

    async def hand_over(self) -> None:
        """Be another process."""
        self.pid = (await self.signal_until("handed_over"))["pid"]

    async def status(self, path: str = "/health") -> int:
        """Of a page, on a connection of its own."""
        async with aiohttp.ClientSession() as http, http.get(self.gateway.url + path) as response:
            return response.status

    def forget_foreign_lines(self) -> None:
        """What a release says before it has a log, and was expected to say."""
        self.gateway.log[:] = [line for line in self.gateway.log if line["event"] != "no line of a log"]


def install(folder: Path, number: int, oddity: str = AS_IT_IS) -> Path:
    """The program's path, which stays the same."""
    program = folder / f"release-{number}" / "cortex-gateway"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, number=number, oddity=oddity))
    program.chmod(0o755)
    (folder / "new").symlink_to(program.parent)
    (folder / "new").rename(folder / "current")
    return folder / "current" / "cortex-gateway"


@asynccontextmanager
async def installed(
    folder: Path, oddity: str = AS_IT_IS, environment: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[Host]:
    """Release 1, in front of a neuron that answers at once and one whose streams take two seconds."""
    async with AsyncExitStack() as resources:
        neurons = [
            await resources.enter_async_context(scripted(f"has-{model}", model)) for model in (MODEL, SLOW_MODEL)
        ]
        neurons[1].fault, neurons[1].pace_s = Fault.SLOW, 0.25
        program, entries = install(folder, 1, oddity), [model_entry(MODEL), model_entry(SLOW_MODEL)]
        gateway = await resources.enter_async_context(
            running(folder, neurons, entries, program=program, environment=environment, **settings)
        )
        host = Host(gateway, neurons, gateway.process.pid)
        try:
            yield host
        finally:
            if runs(host.pid):
                os.kill(host.pid, signal.SIGTERM)
            await until(lambda: not runs(host.pid))
            async with asyncio.timeout(20):
                await gateway.process.wait()  # a process that ends anyway has no ear for a signal any more


def runs(pid: int) -> bool:
    """Whether there is such a process, and more of it than what nobody has asked for."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass
class Load:
    """Clients that ask without a pause, and what did not go well."""

    url: str
    answers: int = 0
    streams: int = 0
    failures: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, number: int) -> None:
        """One client: every other keeps its connection, and every fourth streams."""
        streams, kept = number % 4 == 3, number % 2 == 1
        async with AsyncExitStack() as resources:
            http = await resources.enter_async_context(aiohttp.ClientSession())
            while not self.over.is_set():
                if not kept:
                    http = await resources.enter_async_context(aiohttp.ClientSession())
                try:
                    await (self._stream(http, (CHAT, MESSAGES)[number // 4 % 2]) if streams else self._ask(http))
                except (aiohttp.ClientError, OSError) as failure:
                    self.failures.append(f"client {number}: {failure!r}")
                if not kept:
                    await http.close()

    async def go_on(self) -> None:
        """Return when there have been a hundred more answers, and streams that began later."""
        answers, streams = self.answers + 100, self.streams + CLIENTS // 2
        await until(lambda: self.answers >= answers and self.streams >= streams)

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        async with http.post(self.url + CHAT, json=_body(MODEL)) as response:
            text = await response.text()
            self._note(response.status, text, '"usage"' in text)
            self.answers += 1

    async def _stream(self, http: aiohttp.ClientSession, path: str) -> None:
        async with http.post(self.url + path, json={**_body(SLOW_MODEL), "stream": True}) as response:
            text = await response.text()
            self._note(response.status, text, text.endswith(("data: [DONE]\n\n", 'data: {"type": "message_stop"}\n\n')))
            self.streams += 1

    def _note(self, status: int, text: str, whole: bool) -> None:
        if status != 200 or not whole or "error" in text:
            self.failures.append(f"{status}: {text}")


def _body(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    """Eight clients until the end."""
    clients = Load(url)
    tasks = [asyncio.create_task(clients.run(number)) for number in range(CLIENTS)]
    try:
        yield clients
    finally:
        clients.over.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("workers", [(1, 1, 1, 1), (3, 3, 3, 3), (1, 3, 2, 1)])
async def test_three_releases_in_a_row_take_over_under_load_and_no_request_fails(
    tmp_path: Path, workers: tuple[int, ...]
) -> None:
    """Neither a new connection nor a kept one nor a stream, also where the number of workers changes; every release has
    served, and none is left but the last."""
    pids = []
    async with installed(tmp_path, workers=workers[0]) as host:
        host.neurons[1].pace_s = 0.1  # streams of a second, one after the other: some run whenever a release goes
        async with load(host.gateway.url) as clients:
            for number, count in enumerate(workers[1:], 2):
                host.install(number)
                host.configure(workers=count)
                pids.append(host.pid)
                await host.hand_over()
                await clients.go_on()
        assert not clients.failures
        assert clients.streams >= 6
        await until(lambda: len(host.events("request")) == clients.answers + clients.streams)
        requests = host.events("request")
        assert {line["release"] for line in requests} == {1, 2, 3, 4}
        assert {line["outcome"] for line in requests} == {"ok"}
        await until(lambda: not any(runs(pid) for pid in pids))
        assert await host.gateway.process.wait() == 0
        assert (await host.gateway.get("/health"))["in_flight"] == 0
        assert len(psutil.Process(host.pid).children()) == (workers[-1] if workers[-1] > 1 else 0)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_kept_connection_is_answered_by_the_old_release_and_then_closed(tmp_path: Path, workers: int) -> None:
    """With the word that the next request needs another connection. One that stays silent is closed at last, and a
    stream is not cut, though it takes longer than a stop would give it."""
    settings = {"workers": workers, "drain_timeout_s": 0.5}
    async with installed(tmp_path, SOON_TIRED, **settings) as host, aiohttp.ClientSession() as http:
        port = int(host.gateway.url.rpartition(":")[2])
        host.neurons[1].pace_s = 1.5
        stream = asyncio.create_task(host.gateway.text(SLOW_MODEL))
        await until(lambda: bool(host.neurons[1].sent))
        silent, writer = await asyncio.open_connection("127.0.0.1", port)
        async with http.get(host.gateway.url + "/health") as response:
            assert response.headers["connection"] == "keep-alive"
        before = await _uptime_secs(http, host.gateway.url)
        old = host.pid
        await host.hand_over()
        await until(lambda: len(host.events("retiring")) == workers)
        async with http.get(host.gateway.url + "/health") as response:
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert (await response.json())["uptime_secs"] > before
        assert runs(old)
        assert await _uptime_secs(http, host.gateway.url) < before + 1
        async with asyncio.timeout(10):
            assert await silent.read() == b""
        writer.close()
        assert not stream.done()
        host.neurons[1].pace_s = 0.0
        assert (await stream).endswith("data: [DONE]\n\n")
        await until(lambda: not runs(old))


async def _uptime_secs(http: aiohttp.ClientSession, url: str) -> float:
    async with http.get(url + "/health") as response:
        return float((await response.json())["uptime_secs"])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("oddity", [HANGS, HANGS_LATER])
async def test_a_release_that_hangs_is_ended_and_changes_nothing(tmp_path: Path, workers: int, oddity: str) -> None:
    """Whether or not it has begun; whoever asks meanwhile is answered by the old one."""
    async with installed(tmp_path, IMPATIENT, workers=workers) as host:
        host.configure()  # one worker, which has no supervisor that would start it again
        host.install(2, oddity)
        await _fails_unnoticed(host, "it did not serve within 3 s")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("oddity", "reason"), [(DIES, "it ended before it had begun"), (DIES_LATER, "it ended before it served")]
)
async def test_a_release_that_dies_changes_nothing_and_the_next_may_try(
    tmp_path: Path, workers: int, oddity: str, reason: str
) -> None:
    """At once, or after it has taken the sockets over."""
    async with installed(tmp_path, workers=workers) as host:
        host.configure()
        host.install(2, oddity)
        await _fails_unnoticed(host, reason)
        host.install(3)
        await host.hand_over()
        assert await host.status() == 200


async def _fails_unnoticed(host: Host, reason: str) -> None:
    async with load(host.gateway.url) as clients:
        assert (await host.signal_until("handover_failed"))["reason"] == reason
        await until(lambda served=clients.answers: clients.answers > served + 20)
    assert not clients.failures
    assert not runs(host.events("handover_failed")[0]["pid"])
    assert {line["release"] for line in host.events("request")} == {1}
    assert not host.events("handed_over")


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_configuration_that_the_new_release_refuses_leaves_the_old_one_serving(
    tmp_path: Path, workers: int
) -> None:
    """And the old one's log says what is wrong with it (L11)."""
    async with installed(tmp_path, workers=workers) as host:
        host.install(2)
        config = (tmp_path / "cortex.toml").read_text()
        (tmp_path / "cortex.toml").write_text(config.replace("[gateway]", "[gateway]\nspeed = 9"))
        assert "gateway.speed" in (await host.signal_until("handover_failed"))["reason"]
        assert await host.status() == 200
        await until(lambda: bool(host.events("no line of a log")))
        host.forget_foreign_lines()
        (tmp_path / "cortex.toml").write_text(config)
        await host.hand_over()
        assert await host.status() == 200


async def test_a_second_signal_while_a_successor_starts_is_refused_and_a_stop_ends_both(tmp_path: Path) -> None:
    """There is one successor at a time, and none that outlives a gateway which was told to stop."""
    async with installed(tmp_path) as host:
        host.install(2, HANGS)
        pid = (await host.signal_until("handover_began"))["pid"]
        assert "starting" in (await host.signal_until("handover_refused"))["reason"]
        assert len(host.events("handover_began")) == 1
        os.kill(host.pid, signal.SIGTERM)
        assert await asyncio.wait_for(host.gateway.process.wait(), 10) == 0
        assert not runs(pid)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_service_manager_knows_the_new_process_before_the_old_one_leaves(
    tmp_path: Path, workers: int
) -> None:
    """Or it would take the end of the old one for the service's. All is said by the process that the service is."""
    async with NotifySocket.open(tmp_path / "notify") as manager:
        environment = {"NOTIFY_SOCKET": manager.address}
        async with installed(tmp_path, environment=environment, workers=workers) as host:
            await until(lambda: manager.said == [(host.pid, "READY=1")])
            old = host.pid
            os.kill(old, signal.SIGUSR2)
            await until(lambda: len(manager.said) == 3)
            (_, main), (_, barrier) = manager.said[1:]
            assert ([pid for pid, _ in manager.said], barrier) == ([old] * 3, "BARRIER=1")
            assert await host.status() == 200
            assert (host.events("handed_over"), runs(old)) == ([], True)
            manager.take_up()
            await until(lambda: bool(host.events("handed_over")))
            host.pid = host.events("handed_over")[0]["pid"]
            assert main == f"MAINPID={host.pid}"
            await until(lambda: not runs(old))
            assert len(manager.said) == 3


async def test_a_gateway_that_an_operator_has_drained_stays_so(tmp_path: Path) -> None:
    """The operator drained the gateway of this host, not a process of it."""
    digest = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
    (tmp_path / "keys.toml").write_text(f'anonymous = "allow"\nadmin_sha256 = "{digest}"\n')
    async with installed(tmp_path) as host:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with host.gateway.http.post(f"{host.gateway.url}/fleet/gateway/drain", headers=headers) as response:
            assert response.status == 200
        await host.hand_over()
        assert await host.status() == 503


async def test_a_changed_address_is_listened_on_and_the_old_one_is_left(tmp_path: Path) -> None:
    """Which a reload cannot do. Streams that came by the old one end well."""
    async with installed(tmp_path) as host:
        stream = asyncio.create_task(host.gateway.text(SLOW_MODEL))
        await until(lambda: bool(host.neurons[1].sent))
        old_url = host.gateway.url
        host.gateway.url = old_url.replace("127.0.0.1", "127.0.0.2")
        config = (tmp_path / "cortex.toml").read_text()
        (tmp_path / "cortex.toml").write_text(config.replace('listen = "127.0.0.1', 'listen = "127.0.0.2', 1))
        await host.hand_over()
        assert await host.status() == 200
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorError):
                await http.get(old_url + "/health")
        assert (await stream).endswith("data: [DONE]\n\n")
