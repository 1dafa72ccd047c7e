"""The inference surface of a neuron: every dialect, streamed and not, and what it says when it does not answer."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from neuron_process import CHAT, COMPLETIONS, MESSAGES, RESPONSES, RunningNeuron, chat_body

WITH_USAGE = {"X-Cortex-Usage": "1"}


def _messages(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"max_tokens": 200, **chat_body(order), **more}


def _response(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "echo", "input": json.dumps(order), **more}


async def test_streamed_and_whole_answers_are_the_same_text(scripted: RunningNeuron) -> None:
    """In every dialect, with characters split over tokens (cases S1, S9)."""
    text = "Grüße 🤖👩‍👩‍👧 ok"
    chat, streamed = await scripted.chat({"reply": text}), await scripted.chat({"reply": text}, stream=True)
    assert chat.json["choices"][0]["message"]["content"] == streamed.content == text
    assert streamed.data[-1] == "[DONE]"
    message = await scripted.post(MESSAGES, _messages({"reply": text}))
    events = (await scripted.post(MESSAGES, _messages({"reply": text}, stream=True))).data
    deltas = [each["delta"]["text"] for each in events if each["type"] == "content_block_delta"]
    assert message.json["content"] == [{"type": "text", "text": text}]
    assert "".join(deltas) == text
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    response = await scripted.post(RESPONSES, _response({"reply": text}))
    events = (await scripted.post(RESPONSES, _response({"reply": text}, stream=True))).data
    assert response.json["output"][0]["content"][0]["text"] == text
    assert "".join(each.get("delta", "") for each in events) == text
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert events[-1]["response"]["usage"]["output_tokens"] == response.json["usage"]["output_tokens"]
    completion = await scripted.post(COMPLETIONS, {"model": "echo", "prompt": json.dumps({"reply": text})})
    assert completion.json["choices"][0]["text"] == text


async def test_bytes_that_are_no_text_harm_nobody_else(scripted: RunningNeuron) -> None:
    """A half character at the end is shown as one that is wrong; the model goes on serving (cases S1, T5)."""
    answer = await scripted.chat({"reply_ids": [104, 0xF0, 0x9F, 256]})
    assert answer.json["choices"][0]["message"]["content"].rstrip("\N{REPLACEMENT CHARACTER}") == "h"
    assert (await scripted.chat({"reply": "fine"})).json["choices"][0]["message"]["content"] == "fine"


async def test_a_stop_string_ends_the_answer_and_the_sequence(scripted: RunningNeuron) -> None:
    """Nothing of it is shown, Anthropic is told which, and the engine's blocks are free."""
    order = {"reply": "one two STOP three " * 20, "step_s": 0.005}
    streamed = await scripted.chat(order, stop=["STOP"], stream=True)
    assert streamed.content == "one two "
    message = await scripted.post(MESSAGES, _messages(order, stop_sequences=["nothing", "STOP"]))
    assert (message.json["stop_reason"], message.json["stop_sequence"]) == ("stop_sequence", "STOP")
    await scripted.until_idle()


async def test_silence_is_filled_every_second(scripted: RunningNeuron) -> None:
    """An SSE comment for OpenAI's clients, a ping for Anthropic's, and message_start before all (cases S3, S7)."""
    for path, alive in ((CHAT, b": "), (MESSAGES, b"event: ping"), (RESPONSES, b": ")):
        order = {"reply": "x", "prefill_s": 2.2}
        body = _response(order, stream=True) if path == RESPONSES else _messages(order, stream=True)
        now = asyncio.get_running_loop().time
        async with scripted.open(path, body) as response:
            last, longest, seen = now(), 0.0, b""
            async for chunk, _ in response.content.iter_chunks():
                longest, last, seen = max(longest, now() - last), now(), seen + chunk
        assert longest < 1.0
        assert seen.count(alive) >= 2
        if path == MESSAGES:
            assert seen.startswith(b"event: message_start")
        if path == RESPONSES:
            assert seen.startswith(b"event: response.created")


async def test_usage_is_sent_when_it_is_asked_for(scripted: RunningNeuron) -> None:
    """By the client as a last chunk without choices (case S5), by the gateway as a comment before the end."""
    plain = await scripted.chat({"reply": "hi"}, stream=True)
    assert all("usage" not in each or each["usage"] is None for each in plain.data[:-1])
    asked = await scripted.chat({"reply": "hi"}, stream=True, stream_options={"include_usage": True})
    assert asked.data[-2]["choices"] == []
    assert asked.data[-2]["usage"]["completion_tokens"] == 3
    for path in (CHAT, MESSAGES):
        streamed = await scripted.post(path, _messages({"reply": "hi"}, stream=True), **WITH_USAGE)
        comment, end = streamed.text.split("\n\n: cortex-usage ")[1].split("\n\n", 1)
        assert json.loads(comment)["completion_tokens"] == 3
        assert json.loads(comment)["finish_reason"] == "stop"
        assert end.startswith(("data: [DONE]", "event: message_delta"))
        whole = await scripted.post(path, _messages({"reply": "hi"}), **WITH_USAGE)
        assert json.loads(whole.headers["x-cortex-usage"])["completion_tokens"] == 3
        assert "x-cortex-usage" not in (await scripted.post(path, _messages({"reply": "hi"}))).headers


async def test_many_answers_to_many_prompts_come_in_order(scripted: RunningNeuron) -> None:
    """Choice p * n + k is prompt p's k-th answer; all share one request."""
    prompts = [json.dumps({"reply": "a" * 30}), json.dumps({"reply": "b"})]
    whole = await scripted.post(COMPLETIONS, {"model": "echo", "prompt": prompts, "n": 2})
    assert [each["text"] for each in whole.json["choices"]] == ["a" * 30, "a" * 30, "b", "b"]
    echoed = await scripted.post(COMPLETIONS, {"model": "echo", "prompt": prompts[1], "echo": True})
    assert echoed.json["choices"][0]["text"] == prompts[1] + "b"


async def test_log_probabilities_name_every_token(scripted: RunningNeuron) -> None:
    """Their bytes joined are the text, the end-of-sequence token's aside."""
    answer = await scripted.chat({"reply": "é"}, logprobs=True, top_logprobs=2)
    tokens = answer.json["choices"][0]["logprobs"]["content"]
    assert bytes(byte for each in tokens[:-1] for byte in each["bytes"]).decode() == "é"
    assert all(len(each["top_logprobs"]) == 2 for each in tokens)


async def test_a_request_that_fails_in_the_engine_fails_alone(scripted: RunningNeuron) -> None:
    """Its stream ends with an error and no [DONE]; its neighbour is served to the end (cases T5, S6)."""
    neighbour = asyncio.create_task(scripted.chat({"reply": "n" * 60, "step_s": 0.01}, stream=True))
    failed = await scripted.chat({"reply": "hello", "fail_after": 2}, stream=True)
    assert failed.status == 200
    assert failed.content == "he"
    assert failed.data[-1]["error"]["code"] == "non_finite_logits"
    message = await scripted.post(MESSAGES, _messages({"reply": "hello", "fail_after": 2}, stream=True))
    assert message.data[-1]["type"] == "error"
    assert "message_stop" not in message.text
    response = await scripted.post(RESPONSES, _response({"reply": "hello", "fail_after": 2}, stream=True))
    assert [each["type"] for each in response.data[-2:]] == ["response.failed", "error"]
    assert response.data[-2]["response"]["output"][0]["content"][0]["text"] == "he"
    assert response.data[-1]["error"]["code"] == "non_finite_logits"
    whole = await scripted.chat({"reply": "hello", "fail_after": 2})
    assert (whole.status, whole.json["error"]["code"]) == (500, "non_finite_logits")
    assert (await neighbour).content == "n" * 60
    assert (await scripted.row())["status"] == "loaded"


async def test_what_came_before_a_failure_is_told_however_fast_it_came(scripted: RunningNeuron) -> None:
    """A step that fails right after one that gave text does not take that text away (case S6)."""
    for _ in range(20):
        failed = await scripted.chat({"reply": "hello", "fail_after": 2, "step_s": 0}, stream=True)
        assert failed.content == "he"
        assert failed.data[-1]["error"]["code"] == "non_finite_logits"


async def test_a_frame_the_engine_refuses_is_that_requests_error(scripted: RunningNeuron) -> None:
    """Named by the sequence number of its frame (case T1)."""
    refused = await scripted.chat({"bad_request": True})
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")
    assert (await scripted.chat({"reply": "fine"})).status == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"max_tokens": 5000}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "context_length_exceeded"),
        ({"n": 9}, 400, "invalid_parameter"),
        ({"logit_bias": {"259": 1}}, 400, "invalid_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 422, "template_render_failed"),
        ({"messages": "hi"}, 400, "invalid_parameter"),
        ({"unheard_of": 1}, 400, "unsupported_parameter"),
    ],
)
async def test_what_is_refused_is_refused_before_any_header(
    scripted: RunningNeuron, stream: bool, changed: dict[str, Any], status: int, code: str
) -> None:
    """A stream that cannot begin has the status of its error, not 200 (cases S10, W4, L10)."""
    answer = await scripted.post(CHAT, {**chat_body({"reply": "x"}), "stream": stream, **changed})
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    await scripted.until_idle()


@pytest.mark.parametrize(
    ("changed", "status", "code", "param"),
    [
        ({"model": "nobody"}, 404, "model_not_found", "model"),
        ({"input": "x" * 3000}, 400, "context_length_exceeded", "input"),
        ({"input": [{"id": "msg_1"}]}, 400, "unsupported_parameter", "input[0]"),
        ({"tools": [{"type": "web_search"}]}, 400, "unsupported_parameter", "tools[0]"),
        ({"tools": [{"type": "function", "name": "f"}]}, 422, "template_render_failed", None),
    ],
)
async def test_a_response_that_is_refused_is_refused_before_any_header(
    scripted: RunningNeuron, changed: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    """In the client's own words (cases S10, W9)."""
    answer = await scripted.post(RESPONSES, _response({"reply": "x"}, stream=True, **changed))
    assert (answer.status, answer.json["error"]["code"], answer.json["error"]["param"]) == (status, code, param)
    await scripted.until_idle()


async def test_a_response_that_its_limit_cuts_is_incomplete(scripted: RunningNeuron) -> None:
    """And says why, streamed and whole."""
    asked = _response({"reply": "hello"}, max_output_tokens=2)
    whole = (await scripted.post(RESPONSES, asked)).json
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    last = (await scripted.post(RESPONSES, {**asked, "stream": True})).data[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == (
        "response.incomplete",
        whole["incomplete_details"],
    )
    assert last["response"]["output"][0]["content"] == whole["output"][0]["content"]


async def test_the_unknown_model_error_lists_the_known_ones(scripted: RunningNeuron) -> None:
    """Aliases too."""
    answer = await scripted.chat({}, "nobody")
    assert "['echo', 'org/echo']" in answer.json["error"]["message"]


async def test_every_error_is_in_the_dialect_of_its_path(scripted: RunningNeuron) -> None:
    """Routes, methods, types, sizes and syntax included (case W7)."""
    http, url = scripted.http, scripted.url
    for path in (CHAT, MESSAGES, RESPONSES):
        cases = [
            (http.post(url + path, data=b"{", headers={"content-type": "application/json"}), 400, "invalid_json"),
            (http.post(url + path, data=b"a=1", headers={"content-type": "text/plain"}), 415, "unsupported_media_type"),
            (http.get(url + path), 405, "method_not_allowed"),
            (http.post(url + path, data=io.BytesIO(b"x" * (17 << 20))), 413, "body_too_large"),
        ]
        for asked, status, code in cases:
            async with asked as response:
                body = await response.json()
            assert (response.status, body["error"]["code"]) == (status, code)
            assert (body.get("type") == "error") == (path == MESSAGES)
    async with http.post(url + "/v1/images", json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "route_not_found")
    async with http.get(f"{url}{RESPONSES}/resp_1") as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (404, "route_not_found")
    assert "no responses are kept" in error["message"]


async def test_slashes_in_model_names_and_after_paths_are_fine(scripted: RunningNeuron) -> None:
    """Aliases may look like repositories, and base URLs end either way (case W12)."""
    answer = await scripted.post(CHAT + "/", chat_body({"reply": "x"}, "org/echo"))
    assert answer.json["model"] == "org/echo"
    assert (await scripted.row("org/echo"))["id"] == "echo"
    assert (await scripted.get("/models/org/echo/endpoint"))["url"] == scripted.url
    assert [each["id"] for each in (await scripted.get("/v1/models/"))["data"]] == ["echo"]


async def test_a_priority_that_is_none_is_refused(scripted: RunningNeuron) -> None:
    """By name, with those there are; the gateway's three are taken."""
    refused = await scripted.post(CHAT, chat_body({"reply": "x"}), **{"x-cortex-priority": "urgent"})
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")
    assert "'urgent'; it should be one of low, normal, high" in refused.json["error"]["message"]
    for priority in ("low", "normal", "high"):
        taken = await scripted.post(CHAT, chat_body({"reply": "x"}), **{"x-cortex-priority": priority})
        assert taken.status == 200


async def test_counting_tokens_is_the_prompts_length(scripted: RunningNeuron) -> None:
    """As the answer's usage then says, cached or not."""
    body = chat_body({"reply": "x"})
    counted = await scripted.post(MESSAGES + "/count_tokens", body)
    answered = await scripted.post(MESSAGES, {**body, "max_tokens": 5})
    usage = answered.json["usage"]
    assert counted.json == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert usage["cache_read_input_tokens"] > 0


async def test_every_request_ends_with_one_log_line(scripted: RunningNeuron) -> None:
    """Served, refused, failed, and left by the client (case S12)."""
    ends = {
        "served": ({"reply": "hi"}, {}),
        "refused": ({"reply": "hi"}, {"n": 9}),
        "failed": ({"reply": "hi", "fail_after": 1}, {}),
    }
    for name, (order, more) in ends.items():
        await scripted.post(CHAT, chat_body(order, **more), **{"X-Request-Id": f"log-{name}"})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await scripted.post(CHAT, chat_body({"reply": "x", "prefill_s": 5}), **{"X-Request-Id": "log-left"})
    served = await scripted.line_of("log-served")
    assert (served["finish_reason"], served["completion_tokens"], served["cached_tokens"]) == ("stop", 3, 4)
    assert (served["model"], served["dialect"], served["prefill_ms"]) == ("echo", "openai", 5.0)
    assert (await scripted.line_of("log-refused"))["code"] == "invalid_parameter"
    assert (await scripted.line_of("log-failed"))["code"] == "non_finite_logits"
    left = await scripted.line_of("log-left")
    assert left["client_gone"] is True
    assert left["prompt_tokens"] > 0


async def test_metrics_tell_content_from_comments_and_prefill_from_decoding(scripted: RunningNeuron) -> None:
    """Time to first token is to the first content, whatever was sent before; rates leave prefill out (case M1)."""
    before = await scripted.metrics()
    await scripted.chat({"reply": "0123456789", "prefill_s": 1.0, "step_s": 0.02}, stream=True)
    after = await scripted.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('neuron_first_token_seconds_sum{model="echo"}') >= 1.0
    assert grown('neuron_request_seconds_sum{model="echo"}') >= 1.15
    assert 20 < grown('neuron_decode_tokens_per_second_sum{model="echo"}') < 60
    assert grown('neuron_tokens_total{kind="completion",model="echo"}') == 11
    assert grown('neuron_requests_total{dialect="openai",model="echo",outcome="ok"}') == 1
    assert after['neuron_model_status{model="echo",status="loaded"}'] == 1


async def test_errors_and_departures_are_counted_by_reason(scripted: RunningNeuron) -> None:
    """And a name that is no model's makes no series of its own (case M2)."""
    await scripted.chat({}, "made-up-name")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await scripted.chat({"reply": "x", "prefill_s": 5})
    await scripted.until_idle()
    series = await scripted.metrics()
    assert series['neuron_requests_total{dialect="openai",model="unknown",outcome="model_not_found"}'] >= 1
    assert series['neuron_requests_total{dialect="openai",model="echo",outcome="client_gone"}'] >= 1
    assert not any("made-up-name" in name for name in series)
