"""After many evictions on a neuron its models are loaded anew, while nothing goes on there (`defrag_after_cycles`)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway_process import RunningGateway, model_entry, running, until, until_async
from operator_access import operated, see
from scripted_neuron import Fault, ScriptedNeuron, scripted

ENTRIES = [model_entry("kept", vram_mb=500, pinned_on=["one"]), *(model_entry(name, vram_mb=9000) for name in "ab")]


@asynccontextmanager
async def full(folder: Path, after: int, **settings: Any) -> AsyncIterator[tuple[ScriptedNeuron, RunningGateway]]:
    """A neuron with a pinned model and `a`, where `b` has no room beside `a`."""
    async with scripted("one", "kept") as neuron:
        neuron.has("a", vram_used_mb=9000)
        neuron.devices[0]["free"] = 0
        async with running(folder, [neuron], ENTRIES, defrag_after_cycles=after, **settings) as gateway:
            yield neuron, gateway


async def status(gateway: RunningGateway, model: str) -> int:
    async with gateway.ask(model) as response:
        await response.read()
        found: int = response.status
        return found


async def recycled(gateway: RunningGateway, result: str = "loaded") -> float:
    return (await gateway.metrics()).get(f'cortex_recycles_total{{neuron="one",result="{result}"}}', 0)


async def seen_again(neuron: ScriptedNeuron, polls: int = 5) -> None:
    """The gateway has looked at the neuron some more times."""
    before = neuron.polls
    await until(lambda: neuron.polls >= before + polls)


EVICTION = ["unload a", "load b"]
ROUND = ["unload b", "load b", "unload kept", "load kept"]


async def test_the_loaded_models_come_anew_one_by_one_and_then_it_is_quiet(tmp_path: Path) -> None:
    """A real restart of each group, the pinned one's too; counted, logged, not taken for evictions, and only once."""
    async with full(tmp_path, after=1) as (neuron, gateway):
        assert await status(gateway, "b") == 200
        await until_async(lambda: _is(recycled(gateway), 2))
        await seen_again(neuron)
        assert neuron.orders == EVICTION + ROUND
        assert neuron.loads[-1] == {"model_id": "kept", "devices": [0]}
        assert (await gateway.metrics())['cortex_evictions_total{neuron="one"}'] == 1
        assert [line["model"] for line in gateway.log if line["event"] == "recycled"] == ["b", "kept"]
        assert await status(gateway, "kept") == 200


async def test_zero_is_never_and_too_few_are_too_few(tmp_path: Path) -> None:
    for after in (0, 2):
        async with full(tmp_path, after) as (neuron, gateway):
            assert await status(gateway, "b") == 200
            await seen_again(neuron)
            assert neuron.orders == EVICTION


async def test_it_waits_for_who_is_served_there(tmp_path: Path) -> None:
    """Our own stream, and what the neuron says it does for others."""
    async with full(tmp_path, after=1) as (neuron, gateway):
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.3
        streaming = asyncio.create_task(gateway.text("kept"))
        await until(lambda: len(neuron.sent) == 1)
        assert await status(gateway, "b") == 200
        await seen_again(neuron)
        assert neuron.orders == EVICTION
        neuron.has("kept", in_flight=2)
        await seen_again(neuron)
        assert (await streaming).rstrip().endswith("[DONE]")
        neuron.has("kept", in_flight=1)
        await seen_again(neuron)
        assert neuron.orders == EVICTION
        neuron.has("kept", in_flight=0)
        await until_async(lambda: _is(recycled(gateway), 2))
        assert neuron.orders == EVICTION + ROUND


async def test_who_asks_for_a_model_that_is_down_waits_for_it_to_be_back(tmp_path: Path) -> None:
    """And starts no load of his own; the next model's turn comes when he has been served."""
    async with full(tmp_path, after=1) as (neuron, gateway):
        assert await status(gateway, "b") == 200
        neuron.load_s = 1.0
        await until(lambda: len(neuron.orders) == 4)
        assert await asyncio.gather(*(status(gateway, "b") for _ in range(3))) == [200] * 3
        assert neuron.orders[:4] == EVICTION + ROUND[:2]
        await until_async(lambda: _is(recycled(gateway), 2))
        assert neuron.orders == EVICTION + ROUND


async def test_a_model_that_does_not_come_back_ends_the_round(tmp_path: Path) -> None:
    """What still serves is left alone, and the failure is told."""
    async with full(tmp_path, after=1) as (neuron, gateway):
        neuron.load_s = 0.5
        asking = asyncio.create_task(status(gateway, "b"))
        await until(lambda: neuron.models.get("b", {}).get("status") == "loaded")
        neuron.load_fails = True
        assert await asking == 200
        failed = await gateway.logged("recycle_failed")
        assert (failed["model"], failed["code"]) == ("b", "model_failed")
        await seen_again(neuron)
        assert neuron.orders == EVICTION + ROUND[:2]
        assert await recycled(gateway, "failed") == 1
        assert await status(gateway, "kept") == 200


async def test_a_gateway_that_stops_brings_back_what_it_took_down(tmp_path: Path) -> None:
    """And takes nothing more down."""
    async with full(tmp_path, after=1, drain_timeout_s=10.0) as (neuron, gateway):
        assert await status(gateway, "b") == 200
        neuron.unload_s = 1.0
        await until(lambda: len(neuron.orders) == 3)
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.process.wait()
        assert neuron.orders == EVICTION + ROUND[:2]
        assert neuron.models["b"]["status"] == "loaded"


async def _is(asked: Any, expected: float) -> bool:
    return bool(await asked == expected)


async def test_an_operator_reads_of_each_model_that_is_loaded_anew(tmp_path: Path) -> None:
    """`cortex logs` has whatever was decided, also what no request asked for."""
    async with scripted("one") as neuron:
        neuron.has("a", vram_used_mb=9000)
        neuron.devices[0]["free"] = 0
        async with operated(tmp_path, [neuron], ENTRIES, defrag_after_cycles=1) as gateway:
            assert await status(gateway, "b") == 200
            await until_async(lambda: _is(recycled(gateway), 1))
            rows = (await see(gateway, "decisions"))["data"]
    assert [(row["model"], row["request_id"]) for row in rows if "loaded anew" in row["reason"]] == [("b", "")]
