"""A gateway of several processes: clients and operators see one gateway, whichever process dies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from gateway_process import BIN, CHAT, RunningGateway, model_entry, running, until, until_async, write_config
from scripted_neuron import Fault, ScriptedNeuron, scripted

MODEL, OTHER = "model-a", "model-b"
WORKERS = 2
ADMIN_KEY = "an-admin-key-for-tests"
OK = f'cortex_requests_total{{dialect="openai",model="{MODEL}",outcome="ok"}}'


@asynccontextmanager
async def several(folder: Path, **settings: Any) -> AsyncIterator[tuple[RunningGateway, ScriptedNeuron]]:
    """A gateway of two workers, each of which serves, in front of one neuron."""
    settings = {"workers": WORKERS, **settings}
    async with (
        scripted("one", MODEL) as neuron,
        running(folder, [neuron], [model_entry(MODEL)], **settings) as gateway,
    ):
        await until(lambda: _count(gateway, "serving") == WORKERS)
        yield gateway, neuron


def _count(gateway: RunningGateway, event: str) -> int:
    return sum(1 for line in gateway.log if line["event"] == event)


def _workers(gateway: RunningGateway) -> list[psutil.Process]:
    return psutil.Process(gateway.process.pid).children()


async def _ask(gateway: RunningGateway, stream: bool = False) -> tuple[int, str]:
    """Status and body of one request on a connection of its own; "cut" after what came of a body that was cut."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    text = b""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        http.post(gateway.url + CHAT, json=body) as response,
    ):
        try:
            async for piece in response.content.iter_any():
                text += piece
        except aiohttp.ClientPayloadError:
            text += b"cut"
        return response.status, text.decode()


def _worker_of_each_request(gateway: RunningGateway) -> Counter[int]:
    return Counter(line["worker"] for line in gateway.log if line["event"] == "request")


async def test_requests_spread_over_the_workers_and_metrics_are_the_sum_of_them(tmp_path: Path) -> None:
    """Whichever worker answers /metrics, all that were served are in it; the same for requests under way."""
    async with several(tmp_path) as (gateway, neuron):
        answers = await asyncio.gather(*(_ask(gateway) for _ in range(60)))
        assert {status for status, _ in answers} == {200}
        await until(lambda: sum(_worker_of_each_request(gateway).values()) == 60)
        assert min(_worker_of_each_request(gateway)[number] for number in range(WORKERS)) >= 10

        async def all_are_counted() -> bool:
            return (await _metrics(gateway)).get(OK) == 60

        await until_async(all_are_counted)
        for _ in range(10):  # each on a new connection: both workers are asked, and neither falls back
            assert (await _metrics(gateway))[OK] == 60
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.1
        streams = [asyncio.create_task(_ask(gateway, stream=True)) for _ in range(8)]
        await gateway.health(lambda health: health["in_flight"] == 8)
        await asyncio.gather(*streams)
        await gateway.health(lambda health: health["in_flight"] == 0)


async def _metrics(gateway: RunningGateway, media_type: str = "text/plain") -> dict[str, float]:
    text = await _metrics_text(gateway, media_type)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def _metrics_text(gateway: RunningGateway, media_type: str) -> str:
    async with (
        aiohttp.ClientSession(headers={"accept": media_type}) as http,
        http.get(gateway.metrics_url + "/metrics") as response,
    ):
        return await response.text()


async def test_a_worker_that_is_killed_takes_only_its_own_streams_with_it(tmp_path: Path) -> None:
    """Those are broken connections, never clean ends of cut answers (S6). All others go on, new requests are served
    meanwhile, the worker is back, and what it had counted still counts."""
    async with several(tmp_path) as (gateway, neuron):
        await asyncio.gather(*(_ask(gateway) for _ in range(20)))

        async def told() -> bool:
            return (await _metrics(gateway)).get(OK) == 20

        await until_async(told)
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.2
        streams = [asyncio.create_task(_ask(gateway, stream=True)) for _ in range(24)]
        await until(lambda: len(neuron.sent) == 44)
        victim = _workers(gateway)[0]
        victim.kill()
        neuron.fault = Fault.NONE
        assert {status for status, _ in await asyncio.gather(*(_ask(gateway) for _ in range(30)))} == {200}
        ended = await asyncio.gather(*streams, return_exceptions=True)
        whole = [each for each in ended if _is_whole(each)]
        cut = [each for each in ended if not isinstance(each, tuple) or each[1].endswith("cut")]
        assert whole
        assert cut
        assert len(whole) + len(cut) == len(streams), ended
        assert (await gateway.logged("worker_died"))["exit_code"] == -signal.SIGKILL
        await until(lambda: _count(gateway, "serving") == WORKERS + 1)
        assert len(_workers(gateway)) == WORKERS
        await gateway.health(lambda health: health["in_flight"] == 0)

        async def nothing_is_lost() -> bool:
            return (await _metrics(gateway)).get(OK) == 50 + len(whole)

        await until_async(nothing_is_lost)
        assert "# {request_id=" in await _metrics_text(gateway, "application/openmetrics-text")


async def test_an_operator_sees_and_drains_all_workers_through_any_of_them(tmp_path: Path) -> None:
    """/fleet has the requests and decisions of all; a drained gateway refuses at every worker, also at a new one."""
    _write_keys(tmp_path)
    async with several(tmp_path) as (gateway, neuron):
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.5
        streams = [asyncio.create_task(_ask(gateway, stream=True)) for _ in range(12)]
        await until(lambda: len(neuron.sent) == 12)

        async def all_is_seen() -> bool:
            status, decided = await _fleet(gateway, "status"), await _fleet(gateway, "decisions")
            return (len(status["requests"]), status["gateway"]["in_flight"], len(decided["data"])) == (12, 12, 12)

        for _ in range(6):
            await until_async(all_is_seen)
        decided = (await _fleet(gateway, "decisions"))["data"]
        assert decided == sorted(decided, key=lambda row: row["decided_at"], reverse=True)
        assert (await _fleet(gateway, "status"))["gateway"]["workers"] == WORKERS
        assert (await _fleet(gateway, "gateway/drain", "POST"))["message"].startswith("the gateway is draining")
        _workers(gateway)[0].kill()
        await until(lambda: _count(gateway, "serving") == WORKERS + 1)
        answers = await asyncio.gather(*(_ask(gateway) for _ in range(16)))
        assert {(status, "draining" in text) for status, text in answers} == {(503, True)}
        await _fleet(gateway, "gateway/undrain", "POST")
        neuron.fault = Fault.NONE
        assert {status for status, _ in await asyncio.gather(*(_ask(gateway) for _ in range(16)))} == {200}
        await asyncio.gather(*streams, return_exceptions=True)


async def _fleet(gateway: RunningGateway, path: str, method: str = "GET") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request(method, f"{gateway.url}/fleet/{path}") as response,
    ):
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


def _write_keys(folder: Path, **allowance: int) -> None:
    lines = ['anonymous = "allow"', f'admin_sha256 = "{hashlib.sha256(ADMIN_KEY.encode()).hexdigest()}"']
    lines += ["[anonymous_allowance]", *(f"{key} = {value}" for key, value in allowance.items())]
    (folder / "keys.toml").write_text("\n".join(lines))


async def test_a_limit_holds_over_all_workers_and_a_dead_one_gives_its_seats_back(tmp_path: Path) -> None:
    """Eight at once, wherever they are; what was under way in a killed worker counts no more (L9)."""
    _write_keys(tmp_path, concurrent_requests=8)
    async with several(tmp_path) as (gateway, neuron):
        neuron.fault, neuron.pace_s = Fault.SLOW, 2.0
        streams: list[asyncio.Task[tuple[int, str]]] = []
        for number in range(1, 9):  # one after the other: workers may count what is a microsecond old too late
            streams.append(asyncio.create_task(_ask(gateway, stream=True)))
            await until(lambda number=number: len(neuron.sent) == number)
        assert {status for status, _ in await asyncio.gather(*(_ask(gateway) for _ in range(10)))} == {429}
        for worker in _workers(gateway):
            worker.kill()
        await until(lambda: _count(gateway, "serving") == 2 * WORKERS)
        neuron.fault = Fault.NONE
        assert {status for status, _ in await asyncio.gather(*(_ask(gateway) for _ in range(8)))} == {200}
        assert not [each for each in await asyncio.gather(*streams, return_exceptions=True) if _is_whole(each)]


def _is_whole(ended: object) -> bool:
    return isinstance(ended, tuple) and ended[1].endswith("data: [DONE]\n\n")


async def test_a_stopping_gateway_of_several_lets_streams_end_and_answers_late_callers(tmp_path: Path) -> None:
    """SIGTERM goes to the supervisor alone; no worker is left over (L8)."""
    async with several(tmp_path) as (gateway, neuron):
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.15
        streams = [asyncio.create_task(_ask(gateway, stream=True)) for _ in range(12)]
        await until(lambda: len(neuron.sent) == 12)
        workers = _workers(gateway)
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: _count(gateway, "stopping") == WORKERS)
        status, text = await _ask(gateway)
        assert (status, "shutting_down" in text) == (503, True)
        for status, text in await asyncio.gather(*streams):
            assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
        async with asyncio.timeout(10):
            assert await gateway.process.wait() == 0
        assert not any(each.is_running() for each in workers)


async def test_a_worker_that_does_not_stop_is_killed_within_bounds(tmp_path: Path) -> None:
    """drain_timeout_s and a few seconds; the exit says that it did not go well."""
    async with several(tmp_path, drain_timeout_s=0.2, exit_code=1) as (gateway, _):
        _workers(gateway)[0].suspend()
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(9):
            await gateway.process.wait()
        assert _count(gateway, "workers_killed") == 1


async def test_a_worker_that_dies_again_and_again_ends_the_gateway(tmp_path: Path) -> None:
    """Five times within a minute: then it exits non-zero, and the other worker drains."""
    async with several(tmp_path, exit_code=1) as (gateway, _):
        for deaths in range(1, 6):
            await until(lambda deaths=deaths: _count(gateway, "serving") == WORKERS + deaths - 1)
            newest = max(_workers(gateway), key=lambda each: (each.create_time(), each.pid))
            newest.kill()
            await until(lambda deaths=deaths: _count(gateway, "worker_died") == deaths)
        assert (await gateway.logged("gave_up"))["deaths"] == 5
        async with asyncio.timeout(10):
            await gateway.process.wait()


async def test_workers_stop_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """Nobody would start them again, or tell them to stop: they drain by themselves."""
    async with several(tmp_path, exit_code=-signal.SIGKILL) as (gateway, neuron):
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.1
        stream = asyncio.create_task(_ask(gateway, stream=True))
        await until(lambda: len(neuron.sent) == 1)
        workers = _workers(gateway)
        gateway.process.kill()
        assert (await stream)[1].endswith("data: [DONE]\n\n")
        await until(lambda: not any(each.is_running() for each in workers))


async def test_all_workers_and_those_that_come_later_have_the_last_good_configuration(tmp_path: Path) -> None:
    """SIGHUP reaches all; a bad file changes nothing, nor does a worker start with it (L11)."""
    async with several(tmp_path) as (gateway, neuron):
        ports = (int(gateway.url.rpartition(":")[2]), int(gateway.metrics_url.rpartition(":")[2]))
        entries = [model_entry(MODEL), model_entry(OTHER)]
        write_config(tmp_path, [neuron], entries, ports, workers=WORKERS)
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: _count(gateway, "reloaded") == WORKERS)
        (tmp_path / "models.toml").write_text("[[models]]\nid = 7\n")
        gateway.process.send_signal(signal.SIGHUP)
        assert "models.0.id" in str((await gateway.logged("reload_refused"))["problems"])
        await until(lambda: _count(gateway, "reload_refused") == WORKERS)
        _workers(gateway)[0].kill()
        await until(lambda: _count(gateway, "serving") == WORKERS + 1)
        for _ in range(20):
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"{gateway.url}/v1/models/{OTHER}") as response,
            ):
                assert response.status == 200, await response.text()
        assert (_count(gateway, "reload_refused"), _count(gateway, "reloaded")) == (WORKERS, WORKERS)


async def test_a_rotated_access_log_is_left_also_while_a_file_is_wrong(tmp_path: Path) -> None:
    """logrotate's SIGHUP comes whatever somebody has just written into models.toml."""
    log = tmp_path / "access.jsonl"
    async with several(tmp_path, access_log=str(log)) as (gateway, _):
        (tmp_path / "models.toml").write_text("[[models]]\nid = 7\n")
        log.rename(tmp_path / "rotated.jsonl")
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: _count(gateway, "reload_refused") == WORKERS)
        assert (await _ask(gateway))[0] == 200
        await until(lambda: log.exists() and len(log.read_text().splitlines()) == 1)


async def test_a_port_that_another_gateway_has_is_an_error_for_several_workers_too(tmp_path: Path) -> None:
    """A shared port would take half of the other's connections without a word."""
    async with several(tmp_path):
        command = [str(BIN / "cortex-gateway"), "--config", str(tmp_path / "cortex.toml")]
        second = await asyncio.create_subprocess_exec(
            *command, "--models", str(tmp_path / "models.toml"), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(second.communicate(), 15)
        assert second.returncode == 1
        assert b"cannot listen on 127.0.0.1:" in errors


async def test_a_digest_is_there_only_while_every_worker_has_the_same(tmp_path: Path) -> None:
    """Whichever is asked: so who has reloaded a gateway knows when all of it runs with the new files."""
    async with several(tmp_path) as (gateway, neuron):
        at_first = await _version(gateway)
        assert at_first["files"] == {name: _sha256(tmp_path / name) for name in ("cortex.toml", "models.toml")}
        write_config(tmp_path, [neuron], [model_entry(MODEL), model_entry(OTHER)], _ports(gateway), workers=WORKERS)
        _workers(gateway)[0].send_signal(signal.SIGHUP)
        await until(lambda: _count(gateway, "reloaded") == 1)
        half_way = {"cortex.toml": at_first["files"]["cortex.toml"], "models.toml": None}
        for _ in range(10):  # each on a new connection: both workers are asked
            assert (await _version(gateway))["files"] == half_way
        gateway.process.send_signal(signal.SIGHUP)

        async def all_have_it() -> bool:
            return (await _version(gateway))["files"]["models.toml"] == _sha256(tmp_path / "models.toml")

        await until_async(all_have_it)
        for _ in range(10):
            assert await all_have_it()


async def test_a_worker_that_comes_later_awaits_the_same_restart(tmp_path: Path) -> None:
    """It is started with the new files, and runs all the same with what the gateway was started with."""
    async with several(tmp_path) as (gateway, neuron):
        settings = {"workers": WORKERS + 1, "body_limit_mb": 1}
        write_config(tmp_path, [neuron], [model_entry(MODEL)], _ports(gateway), **settings)
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: _count(gateway, "reloaded") == WORKERS)
        for worker in _workers(gateway):
            worker.kill()
        await until(lambda: _count(gateway, "serving") == 2 * WORKERS)
        assert (await _version(gateway))["awaits_restart"] == ["gateway.body_limit_mb", "gateway.workers"]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * (2 * 1024 * 1024)}]}
        headers = {"content-type": "application/json"}
        async with gateway.http.post(
            gateway.url + CHAT, data=BytesIO(json.dumps(body).encode()), headers=headers
        ) as answer:
            assert answer.status == 200
        assert len(_workers(gateway)) == WORKERS


def _ports(gateway: RunningGateway) -> tuple[int, int]:
    return int(gateway.url.rpartition(":")[2]), int(gateway.metrics_url.rpartition(":")[2])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def _version(gateway: RunningGateway) -> dict[str, Any]:
    """On a connection of its own."""
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.url}/version") as response:
        found: dict[str, Any] = await response.json()
        return found
