"""What production has taught of streams and wire formats, asked of a neuron and through a gateway in front of it."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gateway_process
import pytest
import pytest_asyncio
from gateway_process import model_entry
from neuron_process import CHAT, MESSAGES, RESPONSES, RunningNeuron, chat_body, running_neuron
from scripted_model import write_model

HERMES = Path(__file__).parents[1] / "unit/neuron/families/hermes.jinja"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TEXT = "Grüße 🤖👩‍👩‍👧 ok"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, RunningNeuron]]:
    """Both addresses, by their name, for the same two models."""
    folder = tmp_path_factory.mktemp("doors")
    generation = {"temperature": 0.25}
    sources = {
        "echo": write_model(folder / "echo", generation=generation),
        "caller": write_model(folder / "caller", template=HERMES.read_text()),
    }
    models = [{"id": name, "source": str(source), "preload_on": ["here"]} for name, source in sources.items()]
    entries = [model_entry(name, aliases=[f"org/{name}"] if name == "echo" else []) for name in sources]
    models[0]["aliases"] = ["org/echo"]
    async with running_neuron(models) as neuron:
        for name in sources:
            await neuron.until_status("loaded", name)
        neurons: list[Any] = [neuron]
        async with gateway_process.running(folder, neurons, entries) as gateway:
            await gateway.health(lambda health: len(health["neurons"][0]["models"]) == len(models))
            yield {"neuron": neuron, "gateway": dataclasses.replace(neuron, url=gateway.url)}


@pytest.fixture(params=["neuron", "gateway"])
def door(request: pytest.FixtureRequest, doors: dict[str, RunningNeuron]) -> RunningNeuron:
    return doors[request.param]


def message(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"max_tokens": 200, **chat_body(order), **more}


def response(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "echo", "input": json.dumps(order), **more}


def called(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return chat_body(order, "caller", tools=[TOOL], **more)


async def test_the_deltas_are_the_whole_text(door: RunningNeuron) -> None:
    """Also of characters that are split over tokens, in every dialect (cases S1, S9)."""
    whole, streamed = await door.chat({"reply": TEXT}), await door.chat({"reply": TEXT}, stream=True)
    assert whole.json["choices"][0]["message"]["content"] == streamed.content == TEXT
    claudes = await door.post(MESSAGES, message({"reply": TEXT}))
    events = (await door.post(MESSAGES, message({"reply": TEXT}, stream=True))).data
    deltas = [each["delta"]["text"] for each in events if each["type"] == "content_block_delta"]
    assert claudes.json["content"][0]["text"] == "".join(deltas) == TEXT
    events = (await door.post(RESPONSES, response({"reply": TEXT}, stream=True))).data
    assert "".join(each.get("delta", "") for each in events) == TEXT


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_silence_is_filled_and_a_message_begins_at_once(door: RunningNeuron, path: str) -> None:
    """A sign of life each second, and message_start before the first word is there (cases S3, S7)."""
    async with door.open(path, message({"reply": "x", "prefill_s": 1.3}, stream=True)) as answer:
        text = (await answer.read()).decode()
    before = text.partition('"x"')[0].splitlines()
    assert any(line.startswith("event: ping" if path == MESSAGES else ":") for line in before)
    if path == MESSAGES:
        assert before[0] == "event: message_start"


async def test_usage_comes_last_where_it_is_asked_for(door: RunningNeuron) -> None:
    """A chunk without choices; none for who does not ask (case S5)."""
    asked = await door.chat({"reply": "hi"}, stream=True, stream_options={"include_usage": True})
    assert asked.data[-2]["choices"] == []
    assert asked.data[-2]["usage"]["completion_tokens"] == 3
    plain = await door.chat({"reply": "hi"}, stream=True)
    assert not any(each.get("usage") for each in plain.data[:-1])
    assert "cortex-usage" not in plain.text + asked.text


async def test_an_answer_that_breaks_does_not_look_complete(door: RunningNeuron) -> None:
    """An error event, and neither [DONE] nor message_stop (case S6)."""
    broken = {"reply": "hello", "fail_after": 2}
    failed = await door.chat(broken, stream=True)
    assert (failed.status, failed.content) == (200, "he")
    assert failed.data[-1]["error"]["code"] == "non_finite_logits"
    claudes = await door.post(MESSAGES, message(broken, stream=True))
    assert claudes.data[-1]["type"] == "error"
    assert "message_stop" not in claudes.text
    whole = await door.chat(broken)
    assert (whole.status, whole.json["error"]["code"]) == (500, "non_finite_logits")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        pytest.param({"model": "nobody"}, 404, "model_not_found", id="W7"),
        pytest.param({"max_tokens": 5000}, 400, "context_length_exceeded", id="S10"),
        pytest.param({"tools": [TOOL]}, 422, "template_render_failed", id="W4"),
        pytest.param({"min_tokens": 5}, 400, "unsupported_parameter", id="W9"),
        pytest.param({"unheard_of": 1}, 400, "unsupported_parameter", id="W9 and W11"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1"}}]}]},
            400,
            "images_not_supported",
            id="W10",
        ),
    ],
)  # fmt: skip
async def test_what_is_refused_has_its_status(
    door: RunningNeuron, stream: bool, changed: dict[str, Any], status: int, code: str
) -> None:
    """Before any header of a stream (case S10), in each dialect's envelope (case W7)."""
    answer = await door.post(CHAT, chat_body({"reply": "x"}) | {"stream": stream} | changed)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.headers["content-type"].startswith("application/json")


async def test_images_are_refused_in_every_dialect(door: RunningNeuron) -> None:
    """And nothing is fetched (case W10)."""
    image = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/never"}}
    shown = {"type": "input_image", "image_url": "http://127.0.0.1/never"}
    claudes = await door.post(MESSAGES, message({}, messages=[{"role": "user", "content": [image]}]))
    newer = await door.post(RESPONSES, response({}, input=[{"role": "user", "content": [shown]}]))
    for answer in (claudes, newer):
        assert (answer.status, answer.json["error"]["code"]) == (400, "images_not_supported")


async def test_calls_are_told_in_both_modes(door: RunningNeuron) -> None:
    """As tool_calls; one that max_tokens cuts is text, word for word (case W6)."""
    whole = (await door.post(CHAT, called({"reply": CALL}))).json["choices"][0]
    streamed = (await door.post(CHAT, called({"reply": CALL}, stream=True))).data
    pieces = [each for chunk in streamed[:-1] for each in chunk["choices"][0]["delta"].get("tool_calls", ())]
    (call,) = whole["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Zürich"})
    assert "".join(each["function"].get("arguments", "") for each in pieces) == call["function"]["arguments"]
    assert whole["finish_reason"] == streamed[-2]["choices"][0]["finish_reason"] == "tool_calls"
    cut = await door.post(CHAT, called({"reply": CALL}, max_tokens=40))
    assert cut.json["choices"][0]["message"]["content"] == CALL.encode()[:40].decode()
    assert cut.json["choices"][0]["finish_reason"] == "length"


async def test_a_history_with_calls_is_rendered(door: RunningNeuron) -> None:
    """content null and absent, arguments as text, Anthropic's blocks in any order (cases W1, W3, W5)."""
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
        {"role": "assistant", "tool_calls": [{"id": "d", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "d", "content": "rain"},
        {"role": "user", "content": json.dumps({"reply": "ok"})},
    ]
    answer = await door.post(CHAT, called({}, messages=turns))
    assert answer.json["choices"][0]["message"]["content"] == "ok"
    use = {"type": "tool_use", "id": "c", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": "rain"}
    order = {"type": "text", "text": json.dumps({"reply": "ok"})}
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [order, result]},
    ]
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    claudes = await door.post(MESSAGES, message({}, model="caller", messages=said, tools=tools))
    assert claudes.json["content"] == [{"type": "text", "text": "ok"}]


async def test_the_newer_limit_wins(door: RunningNeuron) -> None:
    """max_completion_tokens over max_tokens (case W2)."""
    answer = await door.chat({"reply": "hello"}, max_tokens=4, max_completion_tokens=2)
    assert answer.json["choices"][0]["message"]["content"] == "he"
    assert answer.json["choices"][0]["finish_reason"] == "length"


async def test_the_prompt_is_what_was_sent(door: RunningNeuron) -> None:
    """No system prompt is put before it (case W8): as many tokens as the template gives these turns."""
    order = json.dumps({"reply": "x"})
    rendered = f"<|start|>user\n{order}<|end|>\n<|start|>assistant\n"
    markers = rendered.count("<|start|>") + rendered.count("<|end|>")
    plain = rendered.replace("<|start|>", "").replace("<|end|>", "")
    answer = await door.post(CHAT, chat_body({"reply": "x"}))
    assert answer.json["usage"]["prompt_tokens"] == len(plain) + markers


async def test_sampling_is_the_requests_then_the_models(door: RunningNeuron) -> None:
    """generation_config.json where the request says nothing; stop is kept to (case W9)."""
    told = {"tell_temperature": True}
    assert (await door.chat(told)).json["choices"][0]["message"]["content"] == "0.25"
    assert (await door.chat(told, temperature=0.5)).json["choices"][0]["message"]["content"] == "0.5"
    stopped = await door.chat({"reply": "one STOP two"}, stop=["STOP"])
    assert stopped.json["choices"][0]["message"]["content"] == "one "


async def test_every_error_is_in_the_dialect_of_its_path(door: RunningNeuron) -> None:
    """What HTTP itself refuses included (cases W7, W12)."""
    json_type, text_type = {"content-type": "application/json"}, {"content-type": "text/plain"}
    for url in (door.url + CHAT, door.url + MESSAGES):
        cases = [
            (door.http.post(url, data=b"{", headers=json_type), 400, "invalid_json"),
            (door.http.post(url, data=b"a", headers=text_type), 415, "unsupported_media_type"),
            (door.http.get(url), 405, "method_not_allowed"),
            (door.http.post(url, data=io.BytesIO(b"x" * (17 << 20))), 413, "body_too_large"),
        ]
        for asked, status, code in cases:
            async with asked as answer:
                body = await answer.json()
            assert (answer.status, body["error"]["code"]) == (status, code)
            assert (body.get("type") == "error") == url.endswith(MESSAGES)


async def test_a_client_that_sends_too_much_and_then_reads_finds_its_answer(door: RunningNeuron) -> None:
    """More than any buffer takes: a connection that is closed meanwhile would be reset, and the answer with it."""
    size, (host, port) = 48 << 20, door.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode())
    writer.write(b"x" * size)
    await writer.drain()
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()


async def test_slashes_and_large_bodies_pass(door: RunningNeuron) -> None:
    """In model ids, after base URLs; ten megabytes are read before they are judged (case W12)."""
    answer = await door.post(CHAT + "/", chat_body({"reply": "x"}, "org/echo"))
    assert answer.json["choices"][0]["message"]["content"] == "x"
    large = chat_body({}, messages=[{"role": "user", "content": "x" * (10 << 20)}])
    headers = {"content-type": "application/json"}
    async with door.http.post(door.url + CHAT, data=io.BytesIO(json.dumps(large).encode()), headers=headers) as refused:
        assert (refused.status, (await refused.json())["error"]["code"]) == (400, "context_length_exceeded")
