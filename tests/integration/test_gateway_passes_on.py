"""What the gateway passes on, and what it leaves as it is."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import anthropic
import openai
import pytest
import pytest_asyncio
from gateway_process import CHAT, MESSAGES, RESPONSES, RunningGateway, model_entry, running, until
from scripted_neuron import USAGE, WORDS, Fault, ScriptedNeuron, scripted

JSON = {"content-type": "application/json"}
ALIAS, MODEL, SLASHED = "small", "org-model", "org/deep/model"


@dataclass
class Pair:
    gateway: RunningGateway
    neuron: ScriptedNeuron


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    models = [
        model_entry(MODEL, aliases=[ALIAS], context=4096),
        model_entry(SLASHED),
        model_entry("never-loaded", vram_mb=10**6),
        model_entry("embedder", task="embed"),
    ]
    async with (
        scripted("one", MODEL, SLASHED) as neuron,
        running(tmp_path_factory.mktemp("gateway"), [neuron], models, idle_timeout_s=1.5, body_limit_mb=12) as gateway,
    ):
        yield Pair(gateway, neuron)


@pytest_asyncio.fixture(loop_scope="session")
async def pair(started: Pair) -> Pair:
    """The gateway, and its neuron without fault or memory, nor failures that would open its circuit."""
    started.neuron.fault, started.neuron.pace_s = Fault.NONE, 0.05
    async with started.gateway.ask(MODEL) as response:
        assert response.status == 200
    started.neuron.left = 0
    started.neuron.sent.clear()
    return started


async def test_a_body_arrives_byte_for_byte(pair: Pair) -> None:
    """Odd spacing, key order, unknown fields, an alias and a system prompt are not touched (W8, W11)."""
    body = (
        '{ "zzz_unknown" : [1.0e2,{"a":null}],\n"messages":[{"role":"system","content":" s  \\u00e9"},'
        f'{{"content":"Hi","role":"user"}}] ,"model":"{ALIAS}" }}'
    ).encode()
    headers = {"content-type": "application/json", "x-request-id": "bytes-1", "anthropic-beta": "b", "openai-beta": "o"}
    async with pair.gateway.http.post(
        pair.gateway.url + CHAT + "/", data=body, headers={**headers, "authorization": "Bearer secret"}
    ) as response:
        assert response.status == 200
        assert response.headers["x-request-id"] == "bytes-1"
        assert "x-cortex-usage" not in response.headers
        assert (await response.json())["choices"][0]["message"]["content"] == "".join(WORDS)
    sent = pair.neuron.sent[0]
    assert sent.body == body
    assert sent.path == CHAT
    assert sent.headers["x-request-id"] == "bytes-1"
    assert sent.headers["x-cortex-usage"] == "1"
    assert (sent.headers["anthropic-beta"], sent.headers["openai-beta"]) == ("b", "o")
    assert "authorization" not in sent.headers
    assert "bytes-1" in json.dumps(await pair.gateway.line_of("bytes-1"))


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.ODD_CHUNKS, Fault.SLOW])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_a_stream_is_the_neurons_less_its_usage_comment(pair: Pair, fault: Fault, path: str) -> None:
    """However it was cut on its way (S11); the comment is for the gateway's log and metrics (S12, M1)."""
    pair.neuron.fault, pair.neuron.pace_s = fault, 0.01
    before = await pair.gateway.metrics()
    async with pair.gateway.ask(MODEL, path, stream=True) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.read()).decode()
        request_id = response.headers["x-request-id"]
    assert "cortex-usage" not in text
    assert "".join(WORDS) == _content(text)
    assert text.rstrip().endswith({CHAT: "[DONE]", MESSAGES: '{"type": "message_stop"}', RESPONSES: "}"}[path])
    line = await pair.gateway.line_of(request_id)
    assert {key: line[key] for key in USAGE} == USAGE
    assert (line["outcome"], line["status"], line["stream"], line["model"]) == ("ok", 200, True, MODEL)
    after = await pair.gateway.metrics()
    series = f'cortex_tokens_total{{kind="completion",model="{MODEL}"}}'
    assert after[series] - before.get(series, 0) == USAGE["completion_tokens"]


def _content(text: str) -> str:
    words = []
    for line in text.splitlines():
        if line.startswith("data: {"):
            body = json.loads(line[6:])
            delta = body.get("delta", "")
            words.append(delta if isinstance(delta, str) else delta.get("text", ""))
            words += [choice["delta"].get("content", "") for choice in body.get("choices", ())]
    return "".join(words)


async def test_events_are_passed_on_as_they_come(pair: Pair) -> None:
    """No batching, and no 40 ms of Nagle between two of them."""
    pair.neuron.fault, pair.neuron.pace_s = Fault.SLOW, 0.1
    started, arrivals = time.monotonic(), []
    async with pair.gateway.ask(MODEL, stream=True) as response:
        async for _ in response.content.iter_any():
            arrivals.append(time.monotonic() - started)
    assert len(arrivals) >= len(WORDS)
    assert arrivals[0] < 0.09
    late = [at - number * 0.1 for number, at in enumerate(arrivals[: len(WORDS)])]
    assert sorted(late)[len(late) // 2] < 0.035


async def test_time_to_first_token_is_that_of_the_first_content(pair: Pair) -> None:
    """The role frame comes at once, the first word one pace later; only the latter counts (M1)."""
    pair.neuron.fault, pair.neuron.pace_s = Fault.SLOW, 0.3
    async with pair.gateway.ask(MODEL, stream=True) as response:
        await response.read()
        line = await pair.gateway.line_of(response.headers["x-request-id"])
    assert 280 < line["ttft_ms"] < 590
    assert line["duration_ms"] > 280 * len(WORDS)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("fault", [Fault.BREAK, Fault.NO_TERMINAL, Fault.STALL, Fault.ERROR_EVENT])
async def test_a_stream_that_breaks_ends_in_an_error_event(pair: Pair, fault: Fault, path: str) -> None:
    """Never in one that looks whole, whatever the neuron sends after it (S6); it counts as broken (M2)."""
    pair.neuron.fault = fault
    before = await pair.gateway.metrics()
    async with pair.gateway.ask(MODEL, path, stream=True) as response:
        text = (await response.read()).decode()
        line = await pair.gateway.line_of(response.headers["x-request-id"])
    assert "[DONE]" not in text
    assert "message_stop" not in text
    assert "response.completed" not in text
    last = text.strip().split("\n\n")[-1]
    assert last.startswith("data: {" if path == CHAT else "event: error\n")
    told = json.loads(last.split("data: ")[1])
    error = told["error"]
    if path == RESPONSES and fault is not Fault.ERROR_EVENT:
        assert (told["code"], told["sequence_number"]) == (error["code"], text.count("event: ") - 1)
    expected = {Fault.STALL: "upstream_timeout", Fault.ERROR_EVENT: "group_died"}.get(fault, "upstream_broken")
    assert error["code"] == expected
    assert (line["outcome"], line["code"]) == ("broken", expected)
    series = f'cortex_broken_streams_total{{model="{MODEL}",reason="{expected}"}}'
    assert (await pair.gateway.metrics())[series] == before.get(series, 0) + 1


async def test_a_long_stream_with_short_pauses_outlives_the_idle_timeout(pair: Pair) -> None:
    """The time limit is between two reads, not for the whole (S2)."""
    pair.neuron.fault, pair.neuron.pace_s = Fault.SLOW, 0.4
    started = time.monotonic()
    assert "[DONE]" in await pair.gateway.text(MODEL)
    assert time.monotonic() - started > 1.5  # idle_timeout_s here


async def test_a_slow_whole_answer_outlives_the_idle_timeout(pair: Pair) -> None:
    """A whole answer is silent until it is done: no idle limit there (S2)."""
    pair.neuron.fault, pair.neuron.pace_s = Fault.SLOW, 2.0
    async with pair.gateway.ask(MODEL) as response:
        assert response.status == 200
        await response.read()


async def test_a_whole_answer_that_breaks_is_a_502(pair: Pair) -> None:
    """Nothing was sent yet, so the status can say it."""
    pair.neuron.fault = Fault.BREAK
    async with pair.gateway.ask(MODEL) as response:
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "upstream_broken"


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize(("fault", "stream"), [(Fault.HANG, False), (Fault.HANG, True), (Fault.STALL, True)])
async def test_a_client_that_leaves_is_noticed_at_the_neuron(pair: Pair, fault: Fault, stream: bool, size: int) -> None:
    """Before the first byte and after it, with small bodies and large (S8)."""
    pair.neuron.fault = fault
    begun, request_id = asyncio.Event(), f"leaver-{fault}-{stream}-{size}"

    async def ask() -> None:
        body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "x" * size}]}
        url, headers = pair.gateway.url + CHAT, {"x-request-id": request_id}
        async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
            await response.content.readany()
            begun.set()
            await response.read()

    asking = asyncio.create_task(ask())
    await until(lambda: begun.is_set() if fault is Fault.STALL else len(pair.neuron.sent) == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: pair.neuron.left == 1, timeout_s=1.0)
    line = await pair.gateway.line_of(request_id)
    assert (line["outcome"], line["client_gone"]) == ("client_gone", True)


async def test_a_neurons_refusal_passes_as_it_is(pair: Pair) -> None:
    """Status, envelope and Retry-After, in both dialects, streamed or not (W7, S10)."""
    pair.neuron.fault = Fault.REFUSAL
    for path in (CHAT, MESSAGES, RESPONSES):
        for stream in (True, False):
            async with pair.gateway.ask(MODEL, path, stream=stream) as response:
                assert response.status == 503
                assert response.headers["retry-after"] == "7"
                assert (await response.json())["error"]["message"] == "one says no"


async def test_ten_megabytes_pass_and_more_than_the_limit_does_not(pair: Pair) -> None:
    """Images are large (W12)."""
    for megabytes, status in ((10, 200), (13, 413)):
        body = io.BytesIO(json.dumps({"model": MODEL, "image": "x" * megabytes * 2**20}).encode())
        async with pair.gateway.http.post(pair.gateway.url + CHAT, data=body, headers=JSON) as response:
            assert response.status == status
            if status == 413:
                assert (await response.json())["error"]["code"] == "body_too_large"
    assert len(pair.neuron.sent[0].body) > 10 * 2**20


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, b"{", 400, "invalid_json"),
        (CHAT, b"", 400, "invalid_json"),
        (CHAT, b"[1]", 400, "invalid_parameter"),
        (CHAT, b'{"messages":[]}', 400, "invalid_parameter"),
        (CHAT, b'{"model":7}', 400, "invalid_parameter"),
        (CHAT, b'{"model":"org-model","stream":"yes"}', 400, "invalid_parameter"),
        (CHAT, b'{"model":"nobody-has-this"}', 404, "model_not_found"),
        (CHAT, b'{"model":"org-model","x":' + b"[" * 100_000, 400, "invalid_json"),
        ("/v1/nothing", b"{}", 404, "route_not_found"),
        ("/v1/messages/nothing", b"{}", 404, "route_not_found"),
        ("/v1/responses/resp_1/cancel", b"{}", 404, "route_not_found"),
        (RESPONSES, b"{", 400, "invalid_json"),
        (RESPONSES, b'{"model":"nobody-has-this"}', 404, "model_not_found"),
        (MESSAGES, b"{", 400, "invalid_json"),
        (MESSAGES, b'{"model":"nobody-has-this"}', 404, "model_not_found"),
    ],
)
async def test_what_cannot_be_is_refused_in_the_dialects_own_words(
    pair: Pair, path: str, body: bytes, status: int, code: str
) -> None:
    """With one log line, and nothing sent to a neuron (W7, S12)."""
    async with pair.gateway.http.post(pair.gateway.url + path, data=body, headers=JSON) as response:
        assert response.status == status
        answer = await response.json()
        line = await pair.gateway.line_of(response.headers["x-request-id"])
    assert answer["error"]["code"] == code
    assert (answer.get("type") == "error") == path.startswith(MESSAGES)
    assert (line["status"], line["code"], line["outcome"]) == (status, code, "client_error")
    assert not pair.neuron.sent


async def test_a_body_that_is_said_to_be_no_json_is_415(pair: Pair) -> None:
    """In the dialect's envelope, like every refusal (W7)."""
    for path in (CHAT, MESSAGES, RESPONSES):
        form = {"content-type": "application/x-www-form-urlencoded"}
        async with pair.gateway.http.post(pair.gateway.url + path, data=b"{}", headers=form) as response:
            assert response.status == 415
            assert (await response.json())["error"]["code"] == "unsupported_media_type"


async def test_what_would_need_a_memory_of_responses_is_404_and_says_why(pair: Pair) -> None:
    """In OpenAI's envelope, as its SDK reads it."""
    client = openai.AsyncOpenAI(base_url=pair.gateway.url + "/v1", api_key="x", max_retries=0)
    async with client:
        for asking in (client.responses.retrieve("resp_1"), client.responses.delete("resp_1")):
            with pytest.raises(openai.NotFoundError, match="no responses are kept") as refused:
                await asking
            assert refused.value.code == "route_not_found"


async def test_a_clients_own_priority_is_not_passed_on(pair: Pair) -> None:
    """Nor anything else that is a word between gateway and neuron: the class is that of its key."""
    own = {"x-cortex-priority": "high", "x-cortex-anything": "1"}
    async with pair.gateway.http.post(pair.gateway.url + CHAT, json={"model": MODEL}, headers=own) as response:
        assert response.status == 200
    (sent,) = pair.neuron.sent
    assert sent.headers["x-cortex-priority"] == "normal"
    assert "x-cortex-anything" not in sent.headers


@pytest.mark.parametrize("header", ["user-agent: a\nb", "accept: a\0b", "openai-\rx: a"])
async def test_a_header_that_cannot_be_passed_on_is_the_clients_mistake(pair: Pair, header: str) -> None:
    """A control character in one is a 400 and not a 500: HTTP has no place for it."""
    body = json.dumps({"model": MODEL, "messages": []})
    host, port = pair.gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n{header}"
    writer.write(f"{head}\r\n\r\n{body}".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"control character" in answer


async def test_a_wrong_parameter_is_named(pair: Pair) -> None:
    """`param` says which, and an unknown model's error says what there is (L5)."""
    async with pair.gateway.http.post(pair.gateway.url + CHAT, data=b'{"model":7}', headers=JSON) as response:
        assert (await response.json())["error"]["param"] == "model"
    async with pair.gateway.ask("nobody-has-this") as response:
        assert SLASHED in (await response.json())["error"]["message"]
    labels = [series for series in await pair.gateway.metrics() if "nobody-has-this" in series]
    assert not labels


async def test_the_catalogue_lists_what_is_loaded_or_could_be(pair: Pair) -> None:
    """With where it is; ids with slashes and trailing slashes resolve (W12)."""
    listed = {entry["id"]: entry for entry in (await pair.gateway.get("/v1/models/"))["data"]}
    assert set(listed) == {MODEL, SLASHED, "never-loaded", "embedder"}
    assert listed[MODEL]["locations"] == [{"neuron": "one", "status": "loaded", "in_flight": 0, "progress": None}]
    assert (listed[MODEL]["status"], listed["never-loaded"]["status"]) == ("loaded", "unloaded")
    assert listed[MODEL]["aliases"] == [ALIAS]
    assert (await pair.gateway.get(f"/v1/models/{SLASHED}/"))["id"] == SLASHED
    assert (await pair.gateway.get(f"/v1/models/{ALIAS}"))["id"] == MODEL
    anthropic_list = await pair.gateway.get("/v1/models", **{"anthropic-version": "2023-06-01"})
    assert {entry["type"] for entry in anthropic_list["data"]} == {"model"}
    assert (anthropic_list["has_more"], anthropic_list["last_id"]) == (False, anthropic_list["data"][-1]["id"])


async def test_anthropics_sdk_learns_how_long_a_prompt_may_be(pair: Pair) -> None:
    """From the list and of one model: the context that it has where it is loaded, as OpenAI's list has it."""
    contexts = {entry["id"]: entry["context"] for entry in (await pair.gateway.get("/v1/models"))["data"]}
    assert contexts[MODEL] == 4096
    async with anthropic.AsyncAnthropic(base_url=pair.gateway.url, api_key="x", max_retries=0) as client:
        listed = [model async for model in client.models.list()]
        one = await client.models.retrieve(ALIAS)
    assert {model.id: model.max_input_tokens for model in listed} == contexts
    assert (one.id, one.max_input_tokens, one.max_tokens) == (MODEL, contexts[MODEL], contexts[MODEL])


@pytest.mark.parametrize("path", ["/health", "/v1/models", f"/v1/models/{MODEL}"])
async def test_pages_answer_head(pair: Pair, path: str) -> None:
    """Load balancers and monitors ask so: the status without the body."""
    async with pair.gateway.http.head(pair.gateway.url + path) as response:
        assert response.status == 200
        assert await response.read() == b""


async def test_what_fits_nowhere_is_503_with_the_reason(pair: Pair) -> None:
    """Declared, so not a 404; it may fit later, so Retry-After (L5)."""
    async with pair.gateway.ask("never-loaded") as response:
        assert response.status == 503
        error = (await response.json())["error"]
        assert error["code"] == "no_capacity"
        assert "one: 20000 MB free" in error["message"]
        assert int(response.headers["retry-after"]) > 0


async def test_the_official_sdks_work(pair: Pair) -> None:
    """Streaming and not, models.list, and errors as the SDKs' own classes."""
    url = pair.gateway.url
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0) as client:
        answer = await client.chat.completions.create(model=ALIAS, messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content == "".join(WORDS)
        assert MODEL in [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="none", messages=[{"role": "user", "content": "Hi"}])
    async with anthropic.AsyncAnthropic(base_url=url + "/", api_key="x", max_retries=0) as other:
        hello: anthropic.types.MessageParam = {"role": "user", "content": "Hi"}
        async with other.messages.stream(model=MODEL, max_tokens=9, messages=[hello]) as stream:
            assert await stream.get_final_text() == "".join(WORDS)
        assert MODEL in [model.id async for model in other.models.list()]
        counted = await other.messages.count_tokens(model=MODEL, messages=[hello])
        assert counted.input_tokens == 7
        with pytest.raises(anthropic.NotFoundError):
            await other.messages.create(model="none", max_tokens=9, messages=[hello])


async def test_a_model_that_is_for_something_else_is_not_loaded_for_it(pair: Pair) -> None:
    """The inventory says what it is for, so nobody need find out."""
    for path in (CHAT, MESSAGES, RESPONSES, "/v1/completions", "/v1/rerank"):
        async with pair.gateway.ask("embedder", path) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (400, "invalid_parameter"), path
        assert "/v1/embeddings" in answer["error"]["message"]
    assert pair.neuron.loads == []
