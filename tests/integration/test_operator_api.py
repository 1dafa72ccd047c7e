"""The operator API under /fleet, on a real gateway with neurons that follow a script."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from gateway_process import MESSAGES, RunningGateway, model_entry, running, until, until_async
from operator_access import ADMIN_KEY, AS_ADMIN, CLIENT_KEY, operated, see, tell
from scripted_neuron import Fault, scripted

MODEL, OTHER = "model-a", "model-b"
ENTRIES = [model_entry(MODEL, aliases=["alias-a"]), model_entry(OTHER)]
GETS = ("status", f"explain?model={MODEL}", "decisions")
POSTS = (
    "models/load", "models/unload", "models/pin", "models/unpin", "neurons/drain", "neurons/undrain", "gateway/drain",
    "gateway/undrain",
)  # fmt: skip


async def test_nobody_gets_in_without_the_admin_key(tmp_path: Path) -> None:
    """No route answers without it: none is 401, another 401, a client's 403; nothing is done, whatever the body is."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        wrong: list[tuple[dict[str, str], int, str]] = [
            ({}, 401, "invalid_api_key"),
            ({"authorization": f"Bearer {ADMIN_KEY}x"}, 401, "invalid_api_key"),
            ({"authorization": f"Basic {ADMIN_KEY}"}, 401, "invalid_api_key"),
            ({"x-api-key": CLIENT_KEY}, 403, "not_allowed"),
        ]
        asked = [("GET", path) for path in GETS] + [("POST", path) for path in POSTS]
        for headers, status, code in wrong:
            for method, path in asked:
                async with gateway.http.request(method, f"{gateway.url}/fleet/{path}", headers=headers) as response:
                    assert response.status == status, (path, headers)
                    assert (await response.json())["error"]["code"] == code
        assert (neuron.loads, neuron.unloads, neuron.state) == ([], [], "ready")
        for headers in (AS_ADMIN, {"authorization": f"bearer {ADMIN_KEY}"}, {"x-api-key": ADMIN_KEY}):
            await gateway.get("/fleet/status", **headers)
        assert not [line for line in gateway.log if ADMIN_KEY in json.dumps(line)]


async def test_without_an_admin_key_the_api_is_closed_and_says_which_variable_opens_it(tmp_path: Path) -> None:
    """A gateway that nobody gave a key is nobody's: 403, not open to all."""
    (tmp_path / "keys.toml").write_text("")
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        async with gateway.http.get(f"{gateway.url}/fleet/status", headers=AS_ADMIN) as response:
            assert response.status == 403
            error = (await response.json())["error"]
        assert error["code"] == "not_allowed"
        assert "gateway_admin_key" in error["message"]


async def test_status_shows_gateway_neurons_models_and_requests(tmp_path: Path) -> None:
    """What is believed of each neuron down to its devices, the catalogue, and a request while it runs."""
    async with (
        scripted("one", MODEL) as one,
        scripted("two") as two,
        operated(tmp_path, [one, two], ENTRIES) as gateway,
    ):
        one.fault, one.pace_s = Fault.SLOW, 0.3
        async with gateway.ask(MODEL, stream=True) as response:
            await response.content.readany()
            status = await see(gateway, "status")
        assert status["gateway"]["gate"] == "open"
        assert (status["gateway"]["in_flight"], status["gateway"]["waiting"], status["gateway"]["workers"]) == (1, 0, 1)
        assert [(neuron["name"], neuron["reach"], neuron["state"]) for neuron in status["neurons"]] == [
            ("one", "up", "ready"), ("two", "up", "ready")
        ]  # fmt: skip
        (device,) = status["neurons"][0]["devices"]
        assert (device["name"], device["vram_total_mb"], device["vram_free_mb"]) == ("card", 24000, 20000)
        (model,) = status["neurons"][0]["models"]
        assert (model["id"], model["status"], model["in_flight"], model["pinned"]) == (MODEL, "loaded", 1, False)
        assert [(entry["id"], entry["status"]) for entry in status["models"]] == [
            (MODEL, "loaded"),
            (OTHER, "unloaded"),
        ]
        (request,) = status["requests"]
        assert request["request_id"] == response.headers["x-request-id"]
        assert (request["model"], request["neuron"], request["stage"], request["stream"]) == (
            MODEL, "one", "answering", True
        )  # fmt: skip
        assert request["key"] == "anonymous"
        assert request["age_s"] > 0


async def test_a_load_answers_when_the_model_is_loaded_and_a_request_joins_it(tmp_path: Path) -> None:
    """One load for the operator and whoever asks for the model meanwhile (L1)."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 0.6
        loading = asyncio.create_task(tell(gateway, "models/load", model="alias-a"))
        await until(lambda: len(neuron.loads) == 1)
        async with gateway.ask(MODEL) as response:
            assert response.status == 200
        status, done = await loading
        assert (status, done["neurons"]) == (200, ["one"])
        assert len(neuron.loads) == 1
        again = await tell(gateway, "models/load", model=MODEL)
        assert again == (200, {"message": "model-a is loaded on one already", "neurons": ["one"]})
        assert len(neuron.loads) == 1


async def test_a_load_need_not_be_waited_for(tmp_path: Path) -> None:
    """With wait=false it is under way when the answer comes, and status shows how far it is."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 30
        status, done = await tell(gateway, "models/load?wait=false", model=MODEL)
        assert (status, done["neurons"]) == (200, ["one"])
        await until(lambda: len(neuron.loads) == 1)

        async def shows_progress() -> bool:
            (model,) = (await see(gateway, "status"))["neurons"][0]["models"]
            return bool(model["status"] == "loading" and model["progress"] == {"phase": "weights", "fraction": 0.5})

        await until_async(shows_progress)


async def test_a_load_on_a_named_neuron_goes_there_and_evicts_only_what_may_go(tmp_path: Path) -> None:
    """Where the model is already on another, too; where it cannot, 503 no_capacity with the reason (L6)."""
    entries = [model_entry(MODEL, pinned_on=["two"]), model_entry(OTHER, vram_mb=8000)]
    full = [{"index": 0, "total": 8000, "free": 7000}]
    async with (
        scripted("one", OTHER) as one,
        scripted("two", MODEL) as two,
        scripted("three", MODEL) as three,
        operated(tmp_path, [one, two, three], entries) as gateway,
    ):
        two.devices, three.devices = full, [dict(full[0])]
        await gateway.logged("serving")

        async def seen() -> bool:
            neurons = (await see(gateway, "status"))["neurons"]
            return all(each["devices"][0]["vram_free_mb"] == 7000 for each in neurons if each["name"] != "one")

        await until_async(seen)
        status, error = await tell(gateway, "models/load", model=OTHER, neuron="two")
        assert (status, error["code"]) == (503, "no_capacity")
        assert "two: " in error["message"]
        assert two.orders == []
        status, done = await tell(gateway, "models/load", model=OTHER, neuron="three")
        assert (status, done["neurons"]) == (200, ["three"])
        assert three.orders == [f"unload {MODEL}", f"load {OTHER}"]
        assert one.orders == two.orders == []
        status, error = await tell(gateway, "models/load", model=OTHER, neuron="nowhere")
        assert (status, error["code"], error["param"]) == (404, "unknown_neuron", "neuron")
        status, error = await tell(gateway, "models/load", model="nonesuch")
        assert (status, error["code"]) == (404, "model_not_found")


async def test_an_operator_may_try_a_failed_load_again_at_once(tmp_path: Path) -> None:
    """Requests wait out the pause after a failure; whoever has mended the cause need not."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_fails = True
        status, error = await tell(gateway, "models/load", model=MODEL)
        assert (status, error["code"]) == (503, "model_failed")
        assert "no such file" in error["message"]
        neuron.load_fails = False
        async with gateway.ask(MODEL) as response:
            assert response.status == 503
        assert (await tell(gateway, "models/load", model=MODEL))[0] == 200


async def test_a_model_in_use_is_not_unloaded_unless_forced(tmp_path: Path) -> None:
    """409 model_busy, by neuron and with Retry-After; forced, no request is sent there any more."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.2
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(neuron.sent) == 1)
        status, error = await tell(gateway, "models/unload", model=MODEL)
        assert (status, error["code"]) == (409, "model_busy")
        assert "1 on one" in error["message"]
        assert neuron.unloads == []
        status, done = await tell(gateway, "models/unload?force=true", model=MODEL)
        assert (status, done["neurons"]) == (200, ["one"])
        assert neuron.unloads == [MODEL]
        assert "[DONE]" in await streaming
        assert await tell(gateway, "models/unload", model=MODEL) == (
            200, {"message": "model-a is loaded nowhere", "neurons": []}
        )  # fmt: skip


async def test_a_model_that_another_gateway_has_come_to_use_is_not_unloaded_unless_forced(tmp_path: Path) -> None:
    """The last poll does not know; the neuron does, and is asked (case L6). A recovery is in nobody's use."""
    async with (
        scripted("one", MODEL) as neuron,
        operated(tmp_path, [neuron], ENTRIES, poll_interval_s=60) as gateway,
    ):
        neuron.models[MODEL]["in_flight"] = 1
        status, error = await tell(gateway, "models/unload", model=MODEL)
        assert (status, error["code"], neuron.unloads) == (409, "model_busy", [])
        assert "use force" in error["message"]
        assert (await tell(gateway, "models/unload?force=true", model=MODEL))[0] == 200


async def test_a_load_that_is_waited_for_at_sigterm_is_told_why_it_ends(tmp_path: Path) -> None:
    """503 shutting_down; the neuron goes on (case L8)."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 30
        answer = asyncio.create_task(tell(gateway, "models/load", model=MODEL))
        await until(lambda: len(neuron.loads) == 1)
        gateway.process.send_signal(signal.SIGTERM)
        status, error = await answer
        assert (status, error["code"]) == (503, "shutting_down")
        assert "one goes on loading" in error["message"]


async def test_a_model_that_is_being_unloaded_is_sent_no_request(tmp_path: Path) -> None:
    """From the command on, not from the next poll: whoever comes is told to come again."""
    async with (
        scripted("one", MODEL) as neuron,
        operated(tmp_path, [neuron], ENTRIES, poll_interval_s=30.0) as gateway,
    ):
        neuron.unload_s = 1.0
        unloading = asyncio.create_task(tell(gateway, "models/unload", model=MODEL))
        await until(lambda: neuron.unloads == [MODEL])
        async with gateway.ask(MODEL) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "draining")
        assert neuron.sent == []
        assert (await unloading)[0] == 200


async def test_a_model_that_is_being_loaded_is_not_unloaded_unless_forced(tmp_path: Path) -> None:
    """Whoever waits for it would lose it."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 30
        assert (await tell(gateway, "models/load?wait=false", model=MODEL))[0] == 200
        await until(lambda: len(neuron.loads) == 1)
        status, error = await tell(gateway, "models/unload", model=MODEL)
        assert (status, error["code"]) == (409, "model_busy")


async def test_unload_takes_every_replica_or_the_named_one(tmp_path: Path) -> None:
    """A neuron that does not answer fails the command, which has unloaded the others all the same."""
    async with (
        scripted("one", MODEL) as one,
        scripted("two", MODEL) as two,
        scripted("three", MODEL) as three,
        operated(tmp_path, [one, two, three], ENTRIES, poll_interval_s=30.0) as gateway,
    ):
        assert (await tell(gateway, "models/unload", model=MODEL, neuron="two"))[1]["neurons"] == ["two"]
        assert (one.unloads, two.unloads, three.unloads) == ([], [MODEL], [])
        await one.stop()
        status, error = await tell(gateway, "models/unload", model=MODEL)
        assert (status, error["code"]) == (503, "unavailable")
        assert "neuron one does not answer" in error["message"]
        assert three.unloads == [MODEL]
        await one.start()


async def test_a_pinned_model_is_evicted_no_more_until_it_is_unpinned(tmp_path: Path) -> None:
    """By routing, for any request; a pin is believed at once, without a poll (L6)."""
    entries = [model_entry(MODEL), model_entry(OTHER, vram_mb=8000)]
    async with scripted("one", MODEL) as neuron:
        neuron.devices = [{"index": 0, "total": 8000, "free": 7000}]
        async with operated(tmp_path, [neuron], entries, poll_interval_s=30.0) as gateway:
            assert (await tell(gateway, "models/pin", model=MODEL))[1]["neurons"] == ["one"]
            assert neuron.models[MODEL]["pinned"] is True
            (model,) = (await see(gateway, "status"))["neurons"][0]["models"]
            assert model["pinned"] is True
            async with gateway.ask(OTHER) as response:
                assert response.status == 503
                assert (await response.json())["error"]["code"] == "no_capacity"
            assert (await tell(gateway, "models/unpin", model=MODEL, neuron="one"))[0] == 200
            async with gateway.ask(OTHER) as response:
                assert response.status == 200
            assert neuron.orders == [f"unload {MODEL}", f"load {OTHER}"]
            status, error = await tell(gateway, "models/pin", model=MODEL)
            assert (status, error["code"]) == (409, "model_not_loaded")


async def test_a_drained_neuron_takes_no_new_work_and_loses_none(tmp_path: Path) -> None:
    """Known at once, without a poll: what runs there ends, the next goes elsewhere; undrained, it serves again."""
    async with (
        scripted("one", MODEL) as one,
        scripted("two", MODEL) as two,
        operated(tmp_path, [one, two], ENTRIES, poll_interval_s=30.0) as gateway,
    ):
        one.fault, one.pace_s = Fault.SLOW, 0.1
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(one.sent) == 1)
        assert await tell(gateway, "neurons/drain", neuron="one") == (
            200, {"message": "neuron one is draining", "neurons": ["one"]}
        )  # fmt: skip
        for _ in range(3):
            assert "[DONE]" in await gateway.text(MODEL)
        assert "[DONE]" in await streaming
        for _ in range(3):  # now it is idle, and first by name
            assert "[DONE]" in await gateway.text(MODEL)
        assert (len(one.sent), len(two.sent)) == (1, 6)
        assert (await tell(gateway, "neurons/undrain", neuron="one"))[0] == 200
        one.fault = Fault.NONE
        await gateway.text(MODEL)
        assert len(one.sent) == 2
        await two.stop()
        status, error = await tell(gateway, "neurons/drain", neuron="two")
        assert (status, error["code"]) == (503, "unavailable")
        await two.start()


async def test_a_drained_gateway_refuses_new_requests_and_ends_the_running_ones(tmp_path: Path) -> None:
    """503 draining in the dialect of the path, /health 503 so that balancers leave, /fleet open; undone by undrain."""
    async with scripted("one", MODEL) as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.1
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(neuron.sent) == 1)
        assert (await tell(gateway, "gateway/drain"))[0] == 200
        assert (await tell(gateway, "gateway/drain"))[0] == 200
        async with gateway.ask(MODEL) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert (await response.json())["error"]["code"] == "draining"
        async with gateway.ask(MODEL, MESSAGES, stream=True) as response:
            assert response.status == 503
            assert (await response.json())["error"]["type"] == "overloaded_error"
        for method in ("GET", "HEAD"):
            async with gateway.http.request(method, f"{gateway.url}/health") as response:
                assert response.status == 503
                if method == "GET":
                    assert (await response.json())["status"] == "draining"
        assert (await see(gateway, "status"))["gateway"]["gate"] == "draining"
        assert "[DONE]" in await streaming
        neuron.fault = Fault.NONE
        assert (await tell(gateway, "gateway/undrain"))[0] == 200
        assert "[DONE]" in await gateway.text(MODEL)
        assert (await gateway.get("/health"))["status"] == "ok"


async def test_the_last_decisions_are_there_newest_first_and_forwards_wash_out_no_load(tmp_path: Path) -> None:
    """Loads with their victims, failovers with what led to them, refusals with the reason; each by its request's id."""
    entries = [model_entry(MODEL), model_entry(OTHER, vram_mb=8000), model_entry("huge", vram_mb=10**6)]
    async with (
        scripted("one", MODEL) as one,
        scripted("two", MODEL) as two,
        operated(tmp_path, [one, two], entries) as gateway,
    ):
        ids = [await _ask(gateway, MODEL) for _ in range(3)]
        one.fault = Fault.REFUSAL
        ids.append(await _ask(gateway, MODEL))
        rows = (await see(gateway, "decisions"))["data"]
        assert [row["request_id"] for row in rows] == [ids[3], *reversed(ids)]
        assert rows[0]["neuron"] == "two"
        assert "one said 503" in rows[0]["reason"]
        assert {row["decision"] for row in rows} == {"forward"}
        assert rows == sorted(rows, key=lambda row: row["decided_at"], reverse=True)
        two.fault = Fault.REFUSAL
        lost = await _ask(gateway, MODEL)
        (row,) = (await see(gateway, "decisions?limit=1"))["data"]
        assert (row["request_id"], row["decision"], row["neuron"]) == (lost, "reject", None)
        assert row["reason"].endswith("said 503; no other replica takes it")
        one.fault = two.fault = Fault.NONE
        one.devices, two.devices = ([{"index": 0, "total": 8000, "free": 7000}] for _ in range(2))
        await until_async(lambda: _free(gateway, 7000, 0))
        await until_async(lambda: _free(gateway, 7000, 1))
        loaded, refused = await _ask(gateway, OTHER), await _ask(gateway, "huge")
        for _ in range(20):
            await _ask(gateway, OTHER)
        rows = (await see(gateway, "decisions?limit=2000"))["data"]
        (load,) = [row for row in rows if row["decision"] == "load"]
        assert (load["request_id"], load["model"], load["evict"], load["devices"]) == (loaded, OTHER, [MODEL], [0])
        (reject, _) = [row for row in rows if row["decision"] == "reject"]
        assert reject["request_id"] == refused
        assert "no neuron has room" in reject["reason"]
        of_one = (await see(gateway, f"decisions?limit=5&model={MODEL}"))["data"]
        assert len(of_one) == 5
        assert {row["model"] for row in of_one} == {MODEL}


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("decisions?limit=0", "limit"), ("decisions?limit=x", "limit"), ("decisions?since=1", "since"),
        ("explain", "model"), ("decisions?model=nonesuch", "model"), ("explain?model=nonesuch", "model"),
    ],
)  # fmt: skip
async def test_a_question_that_cannot_be_understood_names_its_parameter(tmp_path: Path, path: str, param: str) -> None:
    """400 or 404, never a default in its place."""
    async with (
        scripted("one", MODEL) as neuron,
        operated(tmp_path, [neuron], ENTRIES) as gateway,
        gateway.http.get(f"{gateway.url}/fleet/{path}", headers=AS_ADMIN) as response,
    ):
        assert response.status in (400, 404)
        assert (await response.json())["error"]["param"] == param


async def test_explain_says_where_a_request_would_go_and_does_nothing(tmp_path: Path) -> None:
    """The decision and its reason, for what is loaded, what could be, and what cannot."""
    entries = [*ENTRIES, model_entry("huge", vram_mb=10**6)]
    async with (
        scripted("one", MODEL) as one,
        scripted("two") as two,
        operated(tmp_path, [one, two], entries) as gateway,
    ):
        two.devices = [{"index": 0, "total": 90000, "free": 80000}]
        await until_async(lambda: _free(gateway, 80000, 1))
        found = [await see(gateway, f"explain?model={name}") for name in ("alias-a", OTHER, "huge")]
        assert [(each["model"], each["decision"], each["neuron"]) for each in found] == [
            (MODEL, "forward", "one"), (OTHER, "load", "two"), ("huge", "reject", None)
        ]  # fmt: skip
        assert all(each["reason"] for each in found)
        assert [(each["neuron"], each["verdict"]) for each in found[1]["considered"]] == [
            ("one", "possible"), ("two", "chosen")
        ]  # fmt: skip
        assert {each["verdict"] for each in found[2]["considered"]} == {"impossible"}
        assert (one.orders, two.orders) == ([], [])


async def _ask(gateway: RunningGateway, model: str) -> str:
    async with gateway.ask(model) as response:
        await response.read()
        return str(response.headers["x-request-id"])


async def _free(gateway: RunningGateway, megabytes: int, neuron: int) -> bool:
    neurons: list[dict[str, Any]] = (await see(gateway, "status"))["neurons"]
    return bool(neurons[neuron]["devices"][0]["vram_free_mb"] == megabytes)


async def test_a_model_that_sleeps_is_shown_and_ended_by_an_unload(tmp_path: Path) -> None:
    """It has nothing on a device, but processes, and memory of the host; an unload gives that back, too. It can be
    unpinned, not pinned; of a drained neuron nobody has it."""
    async with scripted("one") as neuron, operated(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.has(MODEL, "sleeping", vram_used_mb=0, host_memory_mb=900, pinned=True)

        async def shown() -> bool:
            (model,) = (await see(gateway, "status"))["neurons"][0]["models"] or [{}]
            return model.get("status") == "sleeping" and model["host_memory_mb"] == 900

        await until_async(shown)
        assert (await see(gateway, "status"))["models"][0]["status"] == "sleeping"
        assert (await gateway.metrics())[f'cortex_model_status{{model="{MODEL}",neuron="one",status="sleeping"}}'] == 1
        assert (await see(gateway, f"explain?model={MODEL}"))["considered"][0]["reason"] == (
            "has it asleep, and it fits in what is free"
        )
        assert (await tell(gateway, "models/pin", model=MODEL))[1]["code"] == "model_not_loaded"
        assert (await tell(gateway, "models/unpin", model=MODEL))[1]["neurons"] == ["one"]
        assert not neuron.models[MODEL]["pinned"]
        await tell(gateway, "neurons/drain", neuron="one")
        async with gateway.ask(MODEL) as response:
            assert (await response.json())["error"]["code"] == "no_healthy_neuron"
        assert (await tell(gateway, "models/unload", model=MODEL))[1]["neurons"] == ["one"]
        assert neuron.orders == [f"unload {MODEL}"]
