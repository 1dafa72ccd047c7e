"""What breaks is said, counted and mended: faults made in a real fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import psutil
import pytest
from fleet_of_one import FleetOfOne, running

LONG_CHAT = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "max_tokens": 2000,
    "ignore_eos": True,
    "stream": True,
}
LONG_MESSAGE = {"model": "smollm2", "messages": LONG_CHAT["messages"], "max_tokens": 2000, "stream": True}


@pytest.fixture(scope="module")
def own_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfOne]:
    with running(tmp_path_factory.mktemp("faults")) as started:
        yield started


async def _until(url: str, what: str, timeout_s: float = 60) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(timeout_s):
        while True:
            async with session.get(url) as answer:
                if what in await answer.text():
                    return
            await asyncio.sleep(0.05)


async def _loads(fleet: FleetOfOne) -> int:
    """How often the model was loaded, once it is."""
    async with aiohttp.request("GET", fleet.neuron_url + "/models/smollm2") as answer:
        row = await answer.json()
    return row["loads"] if row["status"] == "loaded" else -1


async def _until_loaded_again(fleet: FleetOfOne, loads: int) -> None:
    async with asyncio.timeout(60):
        while await _loads(fleet) <= loads:  # noqa: ASYNC110  another process: there is nothing to wait on
            await asyncio.sleep(0.05)
    await _until(fleet.url + "/v1/models", '"loaded"')


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", LONG_CHAT), ("/v1/messages", LONG_MESSAGE)])
async def test_a_killed_engine_is_an_error_event_and_the_model_recovers(
    own_fleet: FleetOfOne, path: str, body: dict[str, object]
) -> None:
    """kill -9 mid-stream: an error event, no clean end, then the model is back by itself (cases S6, T6)."""
    loads = await _loads(own_fleet)
    async with aiohttp.ClientSession() as session:
        async with session.post(own_fleet.url + path, json=body) as answer:
            assert answer.status == 200
            seen = b""
            while seen.count(b"data:") < 5:
                seen += await answer.content.readany()
            own_fleet.engine().kill()
            seen += await asyncio.wait_for(answer.content.read(), 30)
        assert b"[DONE]" not in seen
        assert b"message_stop" not in seen
        last = [line for line in seen.splitlines() if line.startswith(b"data:")][-1]
        assert json.loads(last[5:])["error"]["code"] == "group_died"
        await _until_loaded_again(own_fleet, loads)
        short = {**body, "max_tokens": 4, "stream": False}
        async with session.post(own_fleet.url + path, json=short) as answer:
            assert answer.status == 200, await answer.text()


async def test_while_it_recovers_callers_are_told_to_come_again(own_fleet: FleetOfOne) -> None:
    """Right after the death: 503 with Retry-After or a late success, never a 404 (cases T6, L5)."""
    loads = await _loads(own_fleet)
    own_fleet.engine().kill()
    statuses = set()
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while 200 not in statuses:
            async with session.post(
                own_fleet.url + "/v1/chat/completions", json={**LONG_CHAT, "max_tokens": 2, "stream": False}
            ) as answer:
                statuses.add(answer.status)
                if answer.status == 503:
                    assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(0.1)
    assert statuses <= {200, 503, 500}  # 500: the request that was running when it died
    await _until_loaded_again(own_fleet, loads)


async def test_a_client_that_leaves_frees_its_seat(own_fleet: FleetOfOne) -> None:
    """A closed connection reaches the engine: nothing in flight soon after, every KV block free (case S8)."""
    async with aiohttp.ClientSession() as session:
        answer = await session.post(own_fleet.url + "/v1/chat/completions", json=LONG_CHAT)
        await answer.content.readany()
        answer.close()
        async with asyncio.timeout(10):
            while True:
                async with session.get(own_fleet.neuron_url + "/health") as health:
                    model = (await health.json())["models"][0]
                if model["in_flight"] == 0 and model["kv_blocks_free"] == model["kv_blocks_total"]:
                    break
                await asyncio.sleep(0.02)


async def test_a_dead_neuron_is_503_not_404(own_fleet: FleetOfOne) -> None:
    """With the neuron gone the model is still known: 503 and Retry-After (case L5)."""
    neuron = own_fleet.named("cortex-neuron")
    neuron.suspend()  # a hung host: connections open, nothing answers
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            async with session.get(own_fleet.url + "/health") as health:
                assert health.status in (200, 503)
            await _until(own_fleet.url + "/health", '"healthy":false')
            async with session.post(own_fleet.url + "/v1/messages", json=LONG_MESSAGE) as answer:
                body = await answer.json()
            assert (answer.status, body["type"]) == (503, "error")
            assert answer.headers["retry-after"]
    finally:
        neuron.resume()
    await _until(own_fleet.url + "/health", '"healthy":true')


def test_ctrl_c_leaves_no_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every process of the fleet is gone after `cortex up` is interrupted, and its ports are free."""
    with running(tmp_path_factory.mktemp("ends")) as fleet:
        processes = [fleet.process, *fleet.process.children(recursive=True)]
        assert len(processes) >= 4  # up, gateway, neuron, fork server, engine
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []
