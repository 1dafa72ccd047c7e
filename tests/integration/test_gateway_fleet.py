"""Several neurons, some of them unwell: what the gateway believes, whom it asks, and what it loads where."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from pathlib import Path
from typing import Any

from gateway_process import CHAT, MESSAGES, RunningGateway, model_entry, running, until, until_async, write_config
from scripted_neuron import WORDS, Fault, scripted

MODEL, OTHER = "model-a", "model-b"
ENTRIES = [model_entry(MODEL), model_entry(OTHER)]


async def test_a_neuron_is_down_after_three_strikes_and_back_after_one_answer(tmp_path: Path) -> None:
    """One missed poll changes nothing (L4); a neuron that is down serves nothing and is not listed."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        assert (await gateway.get("/health"))["status"] == "ok"
        neuron.poll_fails = True
        seen = await gateway.health(lambda health: health["neurons"][0]["strikes"] in (1, 2))
        assert (seen["status"], seen["neurons"][0]["models"]) == ("ok", [MODEL])
        seen = await gateway.health(lambda health: not health["neurons"][0]["healthy"])
        assert (seen["status"], seen["neurons"][0]["models"]) == ("unavailable", [])
        assert (await gateway.get(f"/v1/models/{MODEL}"))["locations"] == []
        assert (await gateway.metrics())['cortex_neuron_up{neuron="one"}'] == 0
        async with gateway.ask(MODEL) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "no_healthy_neuron"
            assert int(response.headers["retry-after"]) > 0
        neuron.poll_fails = False
        seen = await gateway.health(lambda health: health["status"] == "ok")
        assert seen["neurons"][0]["strikes"] == 0
        async with gateway.ask(MODEL) as response:
            assert response.status == 200


async def test_a_slow_neuron_delays_no_other(tmp_path: Path) -> None:
    """Each is polled by itself: while one takes seconds, the other's polls go on."""
    async with (
        scripted("slow", MODEL) as slow,
        scripted("quick", MODEL) as quick,
        running(tmp_path, [slow, quick], ENTRIES),
    ):
        slow.poll_delay_s = 30
        await until(lambda: slow.polls > 0)
        before = quick.polls
        await until(lambda: quick.polls >= before + 5, timeout_s=2)


async def test_another_replica_answers_where_one_refuses_or_is_gone(tmp_path: Path) -> None:
    """Before the first byte: 503 and refused connections; the dead one gets a strike at once (L12)."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        running(tmp_path, [first, second], ENTRIES, poll_interval_s=30.0) as gateway,
    ):
        first.fault = Fault.REFUSAL
        for path, stream in ((CHAT, False), (CHAT, True), (MESSAGES, True)):
            async with gateway.ask(MODEL, path, stream=stream) as response:
                assert response.status == 200, await response.text()
                await response.read()
        assert len(second.sent) == 3
        await first.stop()
        async with gateway.ask(MODEL) as response:
            assert response.status == 200
        seen = await gateway.health(lambda health: health["neurons"][0]["strikes"] > 0)
        assert seen["neurons"][1]["strikes"] == 0
        metrics = await gateway.metrics()
        assert metrics['cortex_upstream_errors_total{neuron="aa",reason="http_503"}'] == 3
        assert metrics['cortex_upstream_errors_total{neuron="aa",reason="connect"}'] == 1
        await first.start()


async def test_all_replicas_refusing_is_their_own_503(tmp_path: Path) -> None:
    """Nobody places the model a third time because its replicas are busy."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        scripted("cc") as third,
        running(tmp_path, [first, second, third], ENTRIES) as gateway,
    ):
        first.fault = second.fault = Fault.REFUSAL
        async with gateway.ask(MODEL, stream=True) as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "7"
        assert (len(first.sent), len(second.sent), third.loads) == (1, 1, [])


async def test_no_other_replica_is_asked_after_the_first_byte(tmp_path: Path) -> None:
    """Half an answer followed by another's whole one would be no answer (L12)."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        running(tmp_path, [first, second], ENTRIES) as gateway,
    ):
        first.fault = Fault.BREAK
        text = await gateway.text(MODEL)
        assert "upstream_broken" in text
        assert not second.sent


async def test_requests_go_where_fewest_are_under_way(tmp_path: Path) -> None:
    """The gateway counts its own at once; it does not wait for the next poll."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        running(tmp_path, [first, second], ENTRIES, poll_interval_s=30.0) as gateway,
    ):
        first.fault = second.fault = Fault.SLOW
        first.pace_s = second.pace_s = 0.2
        await asyncio.gather(*(gateway.text(MODEL) for _ in range(6)))
        assert (len(first.sent), len(second.sent)) == (3, 3)


async def test_a_neuron_that_hangs_loses_its_silent_requests_to_another(tmp_path: Path) -> None:
    """A whole answer has no time limit, but once its neuron is given up it is asked elsewhere."""
    async with (
        scripted("aa", MODEL) as first,
        scripted("bb", MODEL) as second,
        running(tmp_path, [first, second], ENTRIES) as gateway,
    ):
        first.fault = Fault.HANG
        asking = asyncio.create_task(_status(gateway, MODEL))
        await until(lambda: len(first.sent) == 1)
        first.poll_fails = True
        assert await asking == 200
        assert len(second.sent) == 1


async def test_a_stream_survives_the_polls_of_its_neuron_failing(tmp_path: Path) -> None:
    """A neuron whose control surface is stuck may still stream; what flows is left alone."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.3
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(neuron.sent) == 1)
        neuron.poll_fails = True
        await gateway.health(lambda health: not health["neurons"][0]["healthy"])
        assert (await streaming).rstrip().endswith("[DONE]")


async def test_one_load_serves_all_who_wait_for_it(tmp_path: Path) -> None:
    """Five at once cause one load (L1); a client that leaves takes nobody else's load along (L9)."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 1.0
        leaver, *others = [asyncio.create_task(_status(gateway, OTHER)) for _ in range(6)]
        await until_async(lambda: _in_flight(gateway, 6))
        leaver.cancel()
        listed = await gateway.get(f"/v1/models/{OTHER}")
        assert listed["status"] == "loading"
        await until_async(lambda: _progress_is_shown(gateway))
        assert await asyncio.gather(*others) == [200] * 5
        assert [load["model_id"] for load in neuron.loads] == [OTHER]
        assert neuron.loads[0]["devices"] == [0]
        assert (await gateway.metrics())[f'cortex_loads_total{{model="{OTHER}",result="loaded"}}'] == 1


async def test_a_stream_that_waits_for_a_load_is_kept_alive(tmp_path: Path) -> None:
    """Keep-alives from the first second on, in both dialects; then the answer, with one message_start (S3, S7)."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 2.6
        chat, messages = await asyncio.gather(gateway.text(OTHER), gateway.text(OTHER, MESSAGES))
        assert chat.startswith(": keep-alive\n\n")
        assert chat.count(": keep-alive") == 2
        assert chat.rstrip().endswith("[DONE]")
        assert messages.count("event: message_start") == 1
        assert messages.startswith("event: message_start\n")
        assert messages.count("event: ping") == 2
        assert messages.count("content_block_delta") == 2 * len(WORDS)
        assert messages.rstrip().endswith('{"type": "message_stop"}')


async def test_a_proxy_is_told_not_to_hold_keep_alives_back(tmp_path: Path) -> None:
    """nginx buffers answers unless the head says otherwise, and this head is the gateway's own (S3)."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_s = 1.2
        async with gateway.ask(OTHER, stream=True) as response:
            assert response.headers["x-accel-buffering"] == "no"
            assert (await response.text()).startswith(": keep-alive")


async def test_a_load_that_fails_fast_is_a_status_and_a_late_one_an_event(tmp_path: Path) -> None:
    """Never a 200 for what was refused within the first second (S10), never a silent end after it (S6)."""
    async with scripted("one") as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        neuron.load_fails = True
        async with gateway.ask(OTHER, stream=True) as response:
            assert response.status == 503
            error = (await response.json())["error"]
            assert error["code"] == "model_failed"
            assert "no such file" in error["message"]
        assert await _status(gateway, OTHER) == 503
        assert len(neuron.loads) == 1, "a failure just now is not tried again by every request"
        neuron.load_s = 1.5
        text = await gateway.text(MODEL)
        assert '"code":"model_failed"' in text.strip().split("\n\n")[-1]
        assert "[DONE]" not in text


async def test_what_was_unloaded_behind_our_back_is_loaded_again(tmp_path: Path) -> None:
    """By hand or by another gateway, since the last poll: the client waits for the load like any other (L5)."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES, poll_interval_s=30.0) as gateway:
        for path, stream in ((CHAT, False), (MESSAGES, True)):
            neuron.has(MODEL, "unloaded")
            async with gateway.ask(MODEL, path, stream=stream) as response:
                assert response.status == 200, await response.text()
                await response.read()
        assert len(neuron.loads) == 2


async def test_a_load_that_is_refused_keeps_its_reason(tmp_path: Path) -> None:
    """What the neuron calls a failure is one, and is not tried again at once; no room is no room (L5)."""
    async with scripted("one") as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        for model, code, attempts in ((MODEL, "model_failed", 1), (OTHER, "no_capacity", 2), (OTHER, "draining", 2)):
            neuron.load_refusal, before = code, len(neuron.loads)
            for _ in range(2):
                async with gateway.ask(model) as response:
                    assert (response.status, response.headers["retry-after"]) == (503, "7")
                    assert (await response.json())["error"]["code"] == code
            assert len(neuron.loads) - before == attempts
        metrics = await gateway.metrics()
        failed = [metrics[f'cortex_loads_total{{model="{model}",result="failed"}}'] for model in (MODEL, OTHER)]
        assert failed == [1, 4]


async def test_a_load_that_takes_too_long_is_503_and_goes_on(tmp_path: Path) -> None:
    """The wait has a bound and says when to come back; the model is there then."""
    async with scripted("one") as neuron, running(tmp_path, [neuron], ENTRIES, cold_load_timeout_s=0.5) as gateway:
        neuron.load_s = 1.2
        async with gateway.ask(MODEL) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "model_loading"
            assert int(response.headers["retry-after"]) > 0
        await until(lambda: neuron.models[MODEL]["status"] == "loaded")
        await until_async(lambda: _is_ok(gateway, MODEL))
        assert len(neuron.loads) == 1


async def test_eviction_takes_the_least_recently_used_that_is_idle(tmp_path: Path) -> None:
    """Never one in use (L6); evictions are counted (M2)."""
    entries = [model_entry(name, vram_mb=10_000) for name in ("busy", "recent", "stale", "new")]
    async with scripted("one") as neuron:
        neuron.devices[0]["free"] = 0
        for name, last_used_at in (("busy", 100.0), ("recent", 995.0), ("stale", 500.0)):
            neuron.has(name, last_used_at=last_used_at, vram_used_mb=10_000)
        async with running(tmp_path, [neuron], entries) as gateway:
            neuron.fault, neuron.pace_s = Fault.SLOW, 0.3
            streaming = asyncio.create_task(gateway.text("busy"))
            await until(lambda: len(neuron.sent) == 1)
            neuron.fault = Fault.NONE
            assert await _status(gateway, "new") == 200
            assert neuron.unloads == ["stale"]
            assert "[DONE]" in await streaming
            assert (await gateway.metrics())['cortex_evictions_total{neuron="one"}'] == 1


async def test_a_recovering_model_is_503_and_not_placed_again(tmp_path: Path) -> None:
    """Its neuron is at it already (T6, L5); another replica that is loaded serves meanwhile."""
    async with scripted("aa") as first, scripted("bb") as second:
        first.has(MODEL, "recovering", retry_after_s=4)
        async with running(tmp_path, [first, second], ENTRIES) as gateway:
            async with gateway.ask(MODEL) as response:
                assert (response.status, response.headers["retry-after"]) == (503, "4")
                assert (await response.json())["error"]["code"] == "model_recovering"
            assert not second.loads
            second.has(MODEL)
            await until_async(lambda: _is_ok(gateway, MODEL))


async def test_a_drained_neuron_takes_nothing_new(tmp_path: Path) -> None:
    """Neither requests nor loads."""
    async with scripted("aa", MODEL) as first, scripted("bb") as second:
        first.state = "draining"
        async with running(tmp_path, [first, second], ENTRIES) as gateway:
            assert await _status(gateway, MODEL) == 200
            assert not first.sent
            assert [load["model_id"] for load in second.loads] == [MODEL]


async def test_sigterm_refuses_the_new_and_finishes_the_old(tmp_path: Path) -> None:
    """503 shutting_down for new requests and for those that wait for a model; streams end well (L8)."""
    async with (
        scripted("one", MODEL) as neuron,
        running(tmp_path, [neuron], ENTRIES, drain_timeout_s=10.0) as gateway,
    ):
        neuron.fault, neuron.pace_s, neuron.load_s = Fault.SLOW, 0.3, 30
        streaming = asyncio.create_task(gateway.text(MODEL))
        waiting = asyncio.create_task(_status(gateway, OTHER))
        await until(lambda: len(neuron.sent) == 1 and len(neuron.loads) == 1)
        gateway.process.send_signal(signal.SIGTERM)
        assert await waiting == 503
        async with gateway.ask(MODEL) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "shutting_down"
        async with gateway.http.get(gateway.url + "/health") as response:
            assert (response.status, (await response.json())["status"]) == (503, "stopping")
        assert (await streaming).rstrip().endswith("[DONE]")


async def test_a_stream_that_outlasts_the_drain_is_told_so(tmp_path: Path) -> None:
    """The bound holds, and nothing is cut in silence (L8, S6)."""
    async with (
        scripted("one", MODEL) as neuron,
        running(tmp_path, [neuron], ENTRIES, drain_timeout_s=0.5) as gateway,
    ):
        neuron.fault = Fault.STALL
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(neuron.sent) == 1)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        text = await streaming
        assert "shutting_down" in text.strip().split("\n\n")[-1]
        await gateway.process.wait()
        assert time.monotonic() - started < 5


async def test_sighup_takes_up_both_files_without_dropping_a_stream(tmp_path: Path) -> None:
    """Models and neurons come and go, with their metrics (M2)."""
    async with (
        scripted("aa", MODEL, OTHER) as first,
        scripted("bb", "model-c") as second,
        running(tmp_path, [first], ENTRIES) as gateway,
    ):
        assert await _status(gateway, OTHER) == 200
        assert any(f'model="{OTHER}"' in series for series in await gateway.metrics())
        first.fault, first.pace_s = Fault.SLOW, 0.2
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(first.sent) == 2)
        ports = _ports(gateway)
        write_config(tmp_path, [first, second], [model_entry(MODEL), model_entry("model-c")], ports)
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.logged("reloaded")
        assert await _status(gateway, "model-c") == 200
        assert await _status(gateway, OTHER) == 404
        assert "[DONE]" in await streaming
        write_config(tmp_path, [second], [model_entry("model-c")], ports)
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: sum(line["event"] == "reloaded" for line in gateway.log) == 2)
        gone = [s for s in await gateway.metrics() if f'"{OTHER}"' in s or '"aa"' in s or f'"{MODEL}"' in s]
        assert gone == []


async def test_a_bad_new_config_is_logged_and_the_old_one_stays(tmp_path: Path) -> None:
    """Every problem by file, key and value (L11)."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        (tmp_path / "models.toml").write_text('[[models]]\nid = "x"\nvram_mb = -1\n')
        gateway.process.send_signal(signal.SIGHUP)
        refused = await gateway.logged("reload_refused")
        assert any("models.toml: models.0.vram_mb" in problem for problem in refused["problems"])
        assert await _status(gateway, MODEL) == 200


async def test_a_large_message_that_is_translated_holds_nobody_up(tmp_path: Path) -> None:
    """10 MB of turns take seconds to read; meanwhile other requests go on (T7)."""
    async with scripted("one", MODEL) as neuron:
        neuron.harnesses = ("torch", "vllm")
        async with running(tmp_path, [neuron], [model_entry(MODEL, harness="vllm")]) as gateway:
            turns = [{"role": "user", "content": "Hi"}] * 300_000
            body = io.BytesIO(json.dumps({"model": MODEL, "max_tokens": 9, "messages": turns}).encode())
            headers = {"content-type": "application/json"}
            large = asyncio.create_task(gateway.http.post(gateway.url + MESSAGES, data=body, headers=headers))
            slowest_s = 0.0
            while not large.done():
                asked = time.monotonic()
                await gateway.get("/health")
                slowest_s = max(slowest_s, time.monotonic() - asked)
            assert (await large).status == 200
            assert slowest_s < 0.7, slowest_s


async def test_messages_to_an_engine_that_speaks_only_openai_are_translated(tmp_path: Path) -> None:
    """Streamed and not, with errors and their Retry-After (W7); chat passes untouched but for an alias."""
    entries = [model_entry(MODEL, harness="vllm", aliases=["nick"])]
    async with scripted("one", MODEL) as neuron:
        neuron.harnesses = ("vllm",)
        async with running(tmp_path, [neuron], entries) as gateway:
            async with gateway.ask("nick", MESSAGES) as response:
                answer = await response.json()
            assert (answer["type"], answer["model"]) == ("message", "nick")
            assert answer["content"] == [{"type": "text", "text": "".join(WORDS)}]
            assert neuron.sent[-1].path == CHAT
            assert json.loads(neuron.sent[-1].body)["model"] == MODEL
            text = await gateway.text("nick", MESSAGES)
            assert text.startswith("event: message_start\n")
            assert text.count("text_delta") == len(WORDS)
            assert text.rstrip().endswith('{"type":"message_stop"}')
            async with gateway.ask("nick", CHAT) as response:
                assert response.status == 200
            sent = json.loads(neuron.sent[-1].body)
            assert (sent["model"], sent["max_tokens"]) == (MODEL, 9)
            neuron.fault = Fault.REFUSAL
            for stream in (True, False):
                async with gateway.ask("nick", MESSAGES, stream=stream) as response:
                    assert (response.status, response.headers["retry-after"]) == (503, "7")
                    assert (await response.json())["type"] == "error"
            neuron.fault = Fault.BREAK
            text = await gateway.text("nick", MESSAGES)
            assert text.strip().split("\n\n")[-1].startswith("event: error")
            assert "message_stop" not in text


async def _status(gateway: RunningGateway, model: str) -> int:
    async with gateway.ask(model) as response:
        await response.read()
        status: int = response.status
        return status


async def _is_ok(gateway: RunningGateway, model: str) -> bool:
    return await _status(gateway, model) == 200


async def _in_flight(gateway: RunningGateway, count: int) -> bool:
    health: dict[str, Any] = await gateway.get("/health")
    return health["in_flight"] == count


async def _progress_is_shown(gateway: RunningGateway) -> bool:
    entry: dict[str, Any] = await gateway.get(f"/v1/models/{OTHER}")
    return entry["progress"] == {"phase": "weights", "fraction": 0.5}


def _ports(gateway: RunningGateway) -> tuple[int, int]:
    return int(gateway.url.rpartition(":")[2]), int(gateway.metrics_url.rpartition(":")[2])
