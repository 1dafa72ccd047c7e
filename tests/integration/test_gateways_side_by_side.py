"""Two gateways over the same neurons, which share nothing: what one does the other learns from the neurons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from gateway_process import RunningGateway, model_entry, running, until_async
from neuron_process import RunningNeuron, running_neuron
from scripted_model import write_model

HALF_AND_MORE_MB = int(psutil.virtual_memory().available / 2**20 * 0.6)  # of which no two find room

OK = (200, "")


@asynccontextmanager
async def side_by_side(
    folder: Path, vram_mb: int, *names: str
) -> AsyncIterator[tuple[RunningNeuron, RunningGateway, RunningGateway]]:
    """A neuron that has none of these models loaded, and two gateways."""
    async with AsyncExitStack() as resources:
        models = {name: write_model(folder / name, load_s=0.3, vram_mb=vram_mb) for name in names}
        known = [{"id": name, "source": str(model), "vram_mb": vram_mb} for name, model in models.items()]
        neuron = await resources.enter_async_context(running_neuron(known))
        gateways = []
        for side in ("left", "right"):
            (folder / side).mkdir()
            entries = [model_entry(name, vram_mb=vram_mb) for name in names]
            gateway = running(folder / side, [neuron], entries)  # type: ignore[list-item]  # it has a name and a url
            gateways.append(await resources.enter_async_context(gateway))
        yield neuron, gateways[0], gateways[1]


def _loads(neuron: RunningNeuron) -> list[str]:
    return [line["model"] for line in neuron.log() if line["event"] == "model_loaded"]


async def _status(gateway: RunningGateway, model: str, **order: Any) -> tuple[int, str]:
    """The status, and the code of an error."""
    messages = [{"role": "user", "content": json.dumps(order)}]
    async with gateway.ask(model, messages=messages) as response:
        error = (await response.json()).get("error", {"code": ""})
        return response.status, error["code"]


async def test_twenty_requests_for_a_cold_model_through_both_are_one_load(tmp_path: Path) -> None:
    """Single-flight holds at each gateway and at the neuron, for gateways that know nothing of each other (L1)."""
    async with side_by_side(tmp_path, 10, "cold") as (neuron, left, right):
        asked = [_status(gateway, "cold", reply="ok") for gateway in (left, right) for _ in range(10)]
        assert set(await asyncio.gather(*asked)) == {OK}
        assert _loads(neuron) == ["cold"]
        assert len(neuron.engines()) == 1


async def test_neither_evicts_what_the_other_serves_and_both_see_what_either_evicts(tmp_path: Path) -> None:
    """A stream through one holds its model against the other (L6); once it is over the model may go, and the first
    gateway neither believes in it any more nor loads what the second has loaded."""
    async with side_by_side(tmp_path, HALF_AND_MORE_MB, "first", "second") as (neuron, left, right):
        order = {"reply": "x" * 30, "step_s": 0.1}
        messages = [{"role": "user", "content": json.dumps(order)}]
        async with left.ask("first", stream=True, messages=messages, max_tokens=40) as stream:
            await stream.content.readany()
            await until_async(lambda: _believed(right, "first", "loaded", in_flight=1))
            assert await _status(right, "second", reply="ok") == (503, "no_capacity")
            assert (await stream.read()).endswith(b"data: [DONE]\n\n")
        await until_async(lambda: _believed(right, "first", "loaded", in_flight=0))
        assert await _status(right, "second", reply="ok") == OK
        await until_async(lambda: _believed(left, "first", "unloaded"))
        await until_async(lambda: _believed(left, "second", "loaded", in_flight=0))  # the other's request is over too
        assert await _status(left, "second", reply="ok") == OK
        assert _loads(neuron) == ["first", "second"]
        assert await _status(left, "first", reply="ok") == OK
        assert _loads(neuron) == ["first", "second", "first"]


async def _believed(gateway: RunningGateway, model: str, status: str, in_flight: int | None = None) -> bool:
    entry = await gateway.get(f"/v1/models/{model}")
    seen = sum(location["in_flight"] for location in entry["locations"])
    return bool(entry["status"] == status and in_flight in (None, seen))
