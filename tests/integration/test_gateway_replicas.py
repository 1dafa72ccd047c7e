"""Two neurons that both have the model: conversations, circuits, and how many may wait for a load."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from gateway_process import CHAT, MESSAGES, RunningGateway, model_entry, running, until
from scripted_neuron import Fault, ScriptedNeuron, scripted

MODEL, OTHER = "model-a", "model-b"
ENTRIES = [model_entry(MODEL), model_entry(OTHER)]
OPENS_AFTER = 5


async def test_a_conversations_turns_go_to_one_neuron_and_other_conversations_spread(tmp_path: Path) -> None:
    """Else every turn reads its whole prompt again on one neuron or the other (L13)."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        running(tmp_path, [first, second], ENTRIES) as gateway,
    ):
        for neuron in (first, second):
            neuron.fault, neuron.pace_s = Fault.SLOW, 0.02
        talks = [Conversation(gateway, f"talk {number}", MESSAGES if number % 2 else CHAT) for number in range(8)]
        for _ in range(4):
            await asyncio.gather(*(talk.turn() for talk in talks))
        homes = [talk.served_by(first, second) for talk in talks]
        assert all(len(home) == 1 for home in homes), homes
        assert {name for home in homes for name in home} == {"aa", "bb"}
        assert len(first.sent) == len(second.sent) == 16


async def test_a_model_that_keeps_failing_is_left_alone_and_tried_again(tmp_path: Path) -> None:
    """With another replica nobody notices more than the first failures; alone it is 503 and says when to come back."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL, OTHER) as second,
        running(tmp_path, [first, second], ENTRIES) as gateway,
    ):
        first.fault = Fault.BREAK
        for _ in range(OPENS_AFTER):
            assert "upstream_broken" in await gateway.text(MODEL)
        first.sent.clear()
        for _ in range(OPENS_AFTER):
            assert "[DONE]" in await gateway.text(MODEL)
        assert not first.sent
        assert (await gateway.metrics())[f'cortex_circuit_open{{model="{MODEL}",neuron="aa"}}'] == 1
        second.state = "draining"
        await gateway.health(lambda health: health["neurons"][1]["state"] == "draining")
        first.fault = Fault.NONE
        async with gateway.ask(MODEL) as response:
            assert response.status == 503
            assert 1 <= int(response.headers["retry-after"]) <= 30
        await until_ok(gateway)
        assert not [series for series in await gateway.metrics() if series.startswith("cortex_circuit_open")]


async def test_neither_a_client_that_leaves_nor_a_mistake_of_its_own_opens_a_circuit(tmp_path: Path) -> None:
    """However often; nor a neuron that is merely busy."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.fault = Fault.REFUSAL
        for status in (400, 422, 429, 503):
            neuron.refusal_status = status
            for _ in range(OPENS_AFTER):
                async with gateway.ask(MODEL) as response:
                    assert response.status == status
        neuron.fault = Fault.HANG
        for _ in range(OPENS_AFTER):
            leaver = asyncio.create_task(gateway.text(MODEL))
            count = len(neuron.sent)
            await until(lambda count=count: len(neuron.sent) > count)  # type: ignore[misc]
            leaver.cancel()
        await until(lambda: neuron.left == OPENS_AFTER)
        neuron.fault = Fault.NONE
        async with gateway.ask(MODEL) as response:
            assert response.status == 200


async def test_no_more_than_the_limit_wait_for_a_load(tmp_path: Path) -> None:
    """The next is told at once, and when to come back; another model's requests wait as before (L10)."""
    async with (
        scripted("one") as neuron,
        running(tmp_path, [neuron], ENTRIES, queue_limit=3) as gateway,
    ):
        neuron.load_s = 2.0
        waiting = [asyncio.create_task(gateway.text(MODEL)) for _ in range(3)]
        await until(lambda: len(neuron.loads) == 1)
        await gateway.health(lambda health: health["in_flight"] == 3)
        async with gateway.ask(MODEL) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "2")
            assert (await response.json())["error"]["code"] == "queue_full"
        assert "[DONE]" in await gateway.text(OTHER)
        assert all("[DONE]" in text for text in await asyncio.gather(*waiting))
        assert len(neuron.loads) == 2


class Conversation:
    """Turns of one conversation; every turn brings all that was said before."""

    def __init__(self, gateway: RunningGateway, topic: str, path: str) -> None:
        self._gateway, self._topic, self._path = gateway, topic, path
        self._said: list[dict[str, Any]] = []

    async def turn(self) -> None:
        """One more."""
        self._said.append({"role": "user", "content": f"{self._topic}: " + "what else is there to say? " * 30})
        await self._gateway.text(MODEL, self._path, messages=self._said)
        self._said.append({"role": "assistant", "content": "Little."})

    def served_by(self, *neurons: ScriptedNeuron) -> set[str]:
        """The neurons that have seen it."""
        return {
            neuron.name
            for neuron in neurons
            for sent in neuron.sent
            if json.loads(sent.body)["messages"][0]["content"].startswith(f"{self._topic}: ")
        }


async def until_ok(gateway: RunningGateway) -> None:
    """Ask until the probe's turn has come."""
    async with asyncio.timeout(10):
        while True:
            async with gateway.ask(MODEL) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.1)


async def test_texts_that_are_embedded_spread_and_are_tried_elsewhere(tmp_path: Path) -> None:
    """No replica keeps anything of a text, so the least busy one has it; one that says no has another asked (L12)."""
    body = {"model": MODEL, "input": "the same text again and again " * 40}

    async def embed(gateway: RunningGateway) -> int:
        async with gateway.http.post(f"{gateway.url}/v1/embeddings", json=body) as response:
            await response.read()
            return int(response.status)

    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        running(tmp_path, [first, second], ENTRIES) as gateway,
    ):
        for neuron in (first, second):
            neuron.fault, neuron.pace_s = Fault.SLOW, 0.2
        assert await embed(gateway) == 200
        first.sent.clear()
        assert await asyncio.gather(*(embed(gateway) for _ in range(8))) == [200] * 8
        assert (len(first.sent), len(second.sent)) == (4, 4)
        assert {sent.path for sent in first.sent} == {"/v1/embeddings"}
        first.fault = Fault.REFUSAL
        assert await embed(gateway) == 200
        assert (len(first.sent), len(second.sent)) == (5, 5)
