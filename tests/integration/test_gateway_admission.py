"""Keys and limits at a real gateway, as the SDKs of both dialects meet them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from gateway_process import CHAT, MESSAGES, RunningGateway, model_entry, running, until, until_async
from scripted_neuron import USAGE, Fault, ScriptedNeuron, scripted

MODEL, OTHER, COLD = "model-a", "model-b", "model-c"
ENTRIES = [model_entry(MODEL, aliases=["a"]), model_entry(OTHER), model_entry(COLD)]
ALICE, BOB = "canary-key-of-alice", "canary-key-of-bob"
COST = USAGE["prompt_tokens"] + USAGE["completion_tokens"]  # type: ignore[operator]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write_keys(folder: Path, anonymous: str = "auto", **keys: dict[str, Any]) -> None:
    """keys.toml: each name's key and what it may use."""
    lines = [f'anonymous = "{anonymous}"', f'admin_sha256 = "{digest("canary-admin-key")}"']
    for name, values in keys.items():
        known = {"name": name, "sha256": digest(values["key"]), **values}
        del known["key"]
        lines += ["[[keys]]", *(f"{key} = {json.dumps(value)}" for key, value in known.items())]
    (folder / "keys.toml").write_text("\n".join(lines))


@asynccontextmanager
async def guarded(
    folder: Path, alice: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[RunningGateway, ScriptedNeuron]]:
    """A gateway with keys, and its one neuron; alice may use what the test says, bob everything."""
    write_keys(folder, alice={"key": ALICE, **(alice or {})}, bob={"key": BOB})
    async with scripted("one", MODEL) as neuron:
        neuron.has(OTHER)
        async with running(folder, [neuron], ENTRIES, **settings) as gateway:
            yield gateway, neuron
            for text in (*map(json.dumps, gateway.log), *(file.read_text() for file in folder.glob("*.jsonl"))):
                assert "canary" not in text


def clients(gateway: RunningGateway, key: str) -> tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]:
    return (
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0),
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key=key, max_retries=0),
    )


async def by_both(gateway: RunningGateway, key: str, model: str = MODEL) -> list[Exception | None]:
    """What the SDKs raise for one request each; None where they get an answer."""
    ours, theirs = clients(gateway, key)
    met: list[Exception | None] = []
    async with ours, theirs:
        for work in (
            ours.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}]),
            theirs.messages.create(model=model, max_tokens=9, messages=[{"role": "user", "content": "Hi"}]),
        ):
            try:
                await work
                met.append(None)
            except (openai.APIStatusError, anthropic.APIStatusError) as error:
                met.append(error)
    return met


def ask(gateway: RunningGateway, key: str = ALICE, path: str = CHAT, **more: Any) -> Any:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, **more}
    return gateway.http.post(gateway.url + path, json=body, headers={"authorization": f"Bearer {key}"})


async def test_a_neuron_is_told_the_class_of_the_callers_key(tmp_path: Path) -> None:
    """There it counts: the gateway itself lets nobody wait for a seat."""
    async with guarded(tmp_path, {"priority": "high"}) as (gateway, neuron):
        for key in (ALICE, BOB):
            async with ask(gateway, key) as response:
                assert response.status == 200
        assert [sent.headers["x-cortex-priority"] for sent in neuron.sent] == ["high", "normal"]


async def test_a_key_is_needed_where_there_are_keys_and_never_reaches_a_neuron(tmp_path: Path) -> None:
    """A right key is served, a wrong one and none are 401 in the SDK's own class; upstream sees no trace of it."""
    async with guarded(tmp_path) as (gateway, neuron):
        assert await by_both(gateway, ALICE) == [None, None]
        assert not [sent for sent in neuron.sent if "canary" in repr(sent)]
        met = await by_both(gateway, "canary-wrong")
        assert [type(error) for error in met] == [openai.AuthenticationError, anthropic.AuthenticationError]
        async with gateway.ask(MODEL) as response:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == "invalid_api_key"
        assert len(neuron.sent) == 2


async def test_the_admin_key_asks_any_model_as_the_operator(tmp_path: Path) -> None:
    """In both SDKs, whatever clients may use; logged and counted under that name, and told of no limit."""
    async with guarded(tmp_path, {"models": ["a"], "requests_per_minute": 1}) as (gateway, neuron):
        for model in (MODEL, OTHER):
            assert await by_both(gateway, "canary-admin-key", model) == [None, None]
        async with ask(gateway, "canary-admin-key") as response:
            assert response.status == 200
            assert not [name for name in response.headers if "ratelimit" in name]
            line = await gateway.line_of(response.headers["x-request-id"])
        assert line["key"] == "operator"
        assert not [sent for sent in neuron.sent if "canary" in repr(sent)]
        counted = 'cortex_key_requests_total{key="operator",model="model-a",outcome="ok"}'
        assert (await gateway.metrics())[counted] == 3


async def test_without_a_keys_file_everybody_is_served(tmp_path: Path) -> None:
    """Also who sends a key, as SDKs must."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], ENTRIES) as gateway:
        assert await by_both(gateway, "whatever") == [None, None]
        async with gateway.ask(MODEL) as response:
            line = await gateway.line_of(response.headers["x-request-id"])
        assert line["key"] == "anonymous"


async def test_what_is_no_inference_asks_for_no_key_but_the_catalogue_does(tmp_path: Path) -> None:
    """Load balancers and Prometheus have none; and a key sees only the models that it may use."""
    async with guarded(tmp_path, {"models": ["a"]}) as (gateway, _):
        for path in ("/health", "/openapi.json"):
            await gateway.get(path)
        await gateway.metrics()
        for path in ("/v1/models", f"/v1/models/{MODEL}"):
            async with gateway.http.get(gateway.url + path) as response:
                assert response.status == 401
        for key, seen in ((ALICE, [MODEL]), (BOB, [MODEL, OTHER, COLD])):
            ours, theirs = clients(gateway, key)
            async with ours, theirs:
                assert [model.id async for model in ours.models.list()] == seen
                assert [model.id async for model in theirs.models.list()] == seen
        seen = await gateway.get("/v1/models", authorization="Bearer canary-admin-key")
        assert len(seen["data"]) == len(ENTRIES)
        async with gateway.http.get(f"{gateway.url}/v1/models/{OTHER}", headers={"x-api-key": ALICE}) as response:
            assert response.status == 403


async def test_a_model_that_the_key_may_not_use_is_refused(tmp_path: Path) -> None:
    """403 in the SDK's own class; no neuron hears of it, and it is counted."""
    async with guarded(tmp_path, {"models": ["a"]}) as (gateway, neuron):
        assert await by_both(gateway, ALICE) == [None, None]
        met = await by_both(gateway, ALICE, OTHER)
        assert [type(error) for error in met] == [openai.PermissionDeniedError, anthropic.PermissionDeniedError]
        assert len(neuron.sent) == 2
        metrics = await gateway.metrics()
        assert metrics['cortex_key_requests_total{key="alice",model="model-a",outcome="ok"}'] == 2


async def test_requests_beyond_the_limit_are_told_when_to_come_again(tmp_path: Path) -> None:
    """429 in the SDK's own class, with a Retry-After that it can read; others are served meanwhile."""
    async with guarded(tmp_path, {"requests_per_minute": 2}) as (gateway, neuron):
        assert await by_both(gateway, ALICE) == [None, None]
        met = await by_both(gateway, ALICE)
        assert [type(error) for error in met] == [openai.RateLimitError, anthropic.RateLimitError]
        for error in met:
            assert isinstance(error, (openai.RateLimitError, anthropic.RateLimitError))
            assert 50 <= int(error.response.headers["retry-after"]) <= 60
        assert met[0].response.headers["x-ratelimit-remaining-requests"] == "0"  # type: ignore[union-attr]
        assert met[1].response.headers["anthropic-ratelimit-requests-remaining"] == "0"  # type: ignore[union-attr]
        assert await by_both(gateway, BOB) == [None, None]
        assert len(neuron.sent) == 4
        assert (await gateway.metrics())['cortex_limited_total{key="alice",limit="requests"}'] == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_every_answer_of_a_limited_key_tells_what_is_left(tmp_path: Path, path: str, stream: bool) -> None:
    """In the dialect of the request, streamed or not, refused by the neuron or not."""
    async with guarded(tmp_path, {"requests_per_minute": 9, "tokens_per_minute": 1000}) as (gateway, neuron):
        async with ask(gateway, path=path, stream=stream) as response:
            assert response.status == 200
            await response.read()
            first = response.headers
        async with ask(gateway, path=path, stream=stream) as response:
            await response.read()
            second = response.headers
        neuron.fault = Fault.REFUSAL
        async with ask(gateway, path=path, stream=stream) as response:
            assert response.status == 503
            third = response.headers
        async with ask(gateway, BOB, path=path, stream=stream) as response:
            assert not [name for name in response.headers if "ratelimit" in name.lower()]
    form = "anthropic-ratelimit-{1}-{0}" if path == MESSAGES else "x-ratelimit-{0}-{1}"
    left = [
        [int(each[form.format("remaining", kind)]) for kind in ("requests", "tokens")]
        for each in (first, second, third)
    ]
    assert left == [[8, 1000], [7, 1000 - COST], [6, 1000 - 2 * COST]]
    assert all(each[form.format("limit", "tokens")] == "1000" for each in (first, second, third))
    assert all(form.format("reset", "requests") in each for each in (first, second, third))


async def test_tokens_are_charged_at_the_end_and_keep_the_next_request_out(tmp_path: Path) -> None:
    """While one is left a request may begin; what it used beyond that is owed (documented)."""
    async with guarded(tmp_path, {"tokens_per_minute": COST + 1}) as (gateway, neuron):
        for _ in range(2):
            async with ask(gateway, stream=True) as response:
                assert response.status == 200
                await response.read()
        async with ask(gateway) as response:
            assert response.status == 429
            assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
            assert 50 <= int(response.headers["retry-after"]) <= 60
        assert len(neuron.sent) == 2
        metrics = await gateway.metrics()
        assert metrics['cortex_key_tokens_total{key="alice",kind="completion",model="model-a"}'] == 10
        assert metrics['cortex_limited_total{key="alice",limit="tokens"}'] == 1


async def test_counting_a_prompts_tokens_costs_none(tmp_path: Path) -> None:
    """No engine is asked: who looks whether a prompt is too long must not pay for it twice."""
    async with guarded(tmp_path, {"tokens_per_minute": 100}) as (gateway, _):
        for _ in range(2):
            async with ask(gateway, path=f"{MESSAGES}/count_tokens") as response:
                assert response.status == 200
                assert response.headers["anthropic-ratelimit-tokens-remaining"] == "100"


async def test_who_leaves_before_the_end_is_charged_for_what_was_sent(tmp_path: Path) -> None:
    """Else leaving one token early would cost nothing: there is no count then, so it is estimated."""
    async with guarded(tmp_path, {"tokens_per_minute": 100}) as (gateway, neuron):
        neuron.fault = Fault.STALL
        long = [{"role": "user", "content": "x" * 1000}]
        async with ask(gateway, stream=True, messages=long) as response:
            await response.content.readany()
        await gateway.line_of(response.headers["x-request-id"])
        async with ask(gateway) as response:
            assert response.status == 429


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.STALL, Fault.SLOW])
async def test_a_request_that_is_given_up_frees_its_seat(tmp_path: Path, fault: Fault) -> None:
    """Before the head, in a silence and while it flows (case L9); meanwhile the next one is refused (case S10)."""
    async with guarded(tmp_path, {"concurrent_requests": 1}) as (gateway, neuron):
        neuron.fault = fault

        async def read_on() -> None:
            async with ask(gateway, stream=True) as response:
                await response.read()

        for _ in range(3):
            neuron.sent.clear()
            held = asyncio.create_task(read_on())
            await until(lambda: bool(neuron.sent))
            async with ask(gateway, stream=True) as response:
                assert response.status == 429
                assert (await response.json())["error"]["code"] == "concurrency_limit_exceeded"
                assert int(response.headers["retry-after"]) >= 1
            held.cancel()
            await asyncio.gather(held, return_exceptions=True)

            async def is_free() -> bool:
                async with ask(gateway, model="nobody") as response:
                    return bool(response.status == 404)

            await until_async(is_free)


async def test_a_waiter_for_a_load_that_leaves_frees_its_seat(tmp_path: Path) -> None:
    """The model goes on loading, the seat does not wait for it (case L9)."""
    async with guarded(tmp_path, {"concurrent_requests": 1}) as (gateway, neuron):
        neuron.load_s = 30
        waiter = asyncio.create_task(_status(ask(gateway, model=COLD, stream=True)))
        await until(lambda: bool(neuron.loads))
        assert await _status(ask(gateway)) == 429
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)

        async def is_free() -> bool:
            return await _status(ask(gateway, model="nobody")) == 404

        await until_async(is_free)


@pytest.mark.parametrize("fault", [Fault.REFUSAL, Fault.BREAK, Fault.ERROR_EVENT, Fault.NO_TERMINAL])
async def test_a_request_that_fails_frees_its_seat(tmp_path: Path, fault: Fault) -> None:
    """However often it fails."""
    async with guarded(tmp_path, {"concurrent_requests": 1}) as (gateway, neuron):
        neuron.fault = fault
        for _ in range(3):
            for path in (CHAT, MESSAGES):
                async with ask(gateway, path=path, stream=True) as response:
                    assert response.status != 429
                    await response.read()
        for body in (b"{", b'{"model": 1}'):
            headers = {"authorization": f"Bearer {ALICE}"}
            async with gateway.http.post(gateway.url + CHAT, data=body, headers=headers) as response:
                assert response.status in (400, 415)


async def test_keys_are_taken_up_by_a_reload_and_no_stream_ends(tmp_path: Path) -> None:
    """SIGHUP: a new key is served, one that is gone is not, nor are its series shown; what is under way goes on."""
    async with guarded(tmp_path, {"concurrent_requests": 1}) as (gateway, neuron):
        neuron.fault, neuron.pace_s = Fault.SLOW, 0.3
        streaming = asyncio.create_task(_text(ask(gateway, stream=True)))
        await until(lambda: bool(neuron.sent))
        write_keys(tmp_path, carol={"key": "canary-key-of-carol", "concurrent_requests": 1})
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.logged("reloaded")
        neuron.fault = Fault.NONE
        assert await _status(ask(gateway, "canary-key-of-carol")) == 200
        assert await _status(ask(gateway, ALICE)) == 401
        assert "[DONE]" in await streaming
        assert not [name for name in await gateway.metrics() if 'key="alice"' in name]
        (tmp_path / "keys.toml").write_text('anonymous = "perhaps"')
        gateway.process.send_signal(signal.SIGHUP)
        refused = await gateway.logged("reload_refused")
        assert "anonymous" in refused["problems"][0]
        assert await _status(ask(gateway, "canary-key-of-carol")) == 200


async def test_a_limit_holds_for_all_workers_together(tmp_path: Path) -> None:
    """Whichever of them a connection reaches: what one has let in, the other counts."""
    async with guarded(tmp_path, {"requests_per_minute": 5}, workers=2) as (gateway, _):
        statuses = []
        for _ in range(24):
            async with aiohttp.ClientSession() as fresh:  # a connection of its own, so a worker of the kernel's choice
                headers = {"authorization": f"Bearer {ALICE}"}
                body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
                async with fresh.post(gateway.url + CHAT, json=body, headers=headers) as response:
                    statuses.append(response.status)
        assert statuses == [200] * 5 + [429] * 19


async def test_the_access_log_has_the_line_of_every_request(tmp_path: Path) -> None:
    """The same fields as the log; after a rotation and SIGHUP it goes on in the new file."""
    path = tmp_path / "access.jsonl"
    async with guarded(tmp_path, access_log=str(path)) as (gateway, _):
        async with ask(gateway, stream=True) as response:
            await response.read()
            logged = await gateway.line_of(response.headers["x-request-id"])
        [line] = [json.loads(line) for line in path.read_text().splitlines()]
        told = {name: value for name, value in logged.items() if name not in ("time", "level", "event")}
        assert {name: value for name, value in line.items() if name != "time"} == told
        assert (line["key"], line["completion_tokens"]) == ("alice", 5)
        path.rename(tmp_path / "access.1.jsonl")
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.logged("reloaded")
        assert await _status(ask(gateway, "canary-wrong")) == 401
        await until(lambda: path.exists() and bool(path.read_text()))
        [line] = [json.loads(line) for line in path.read_text().splitlines()]
        assert (line["status"], line["code"], line["key"]) == (401, "invalid_api_key", "")


async def test_an_access_log_that_cannot_be_written_fails_no_request(tmp_path: Path) -> None:
    """A full disk is told once, not with each request."""
    async with guarded(tmp_path, access_log="/dev/full") as (gateway, _):
        for _ in range(3):
            assert await _status(ask(gateway)) == 200
        told = [line for line in gateway.log if line["event"] == "access_log_failed"]
        assert [(line["path"], line["reason"]) for line in told] == [("/dev/full", "No space left on device")]


async def _status(request: Any) -> int:
    async with request as response:
        await response.read()
        return int(response.status)


async def _text(request: Any) -> str:
    async with request as response:
        return (await response.read()).decode()
