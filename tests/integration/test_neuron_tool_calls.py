"""Tool calls of a neuron, in both dialects, streamed and not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from neuron_process import CHAT, MESSAGES, RunningNeuron, running_neuron
from scripted_model import write_model

FAMILIES = Path(__file__).parents[1] / "unit/neuron/families"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CLAUDES = {"name": "weather", "input_schema": SCHEMA}
SAID = 'Let me see.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest_asyncio.fixture(scope="module")
async def neuron(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningNeuron]:
    """One with a model that calls tools in Hermes' words, and one that nobody knows how to read."""
    folder = tmp_path_factory.mktemp("models")
    hermes = (FAMILIES / "hermes.jinja").read_text()
    strange = "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}"
    unable = "{% for m in messages %}{{ m.content }}{% endfor %}"
    models = [
        {"id": name, "source": str(write_model(folder / name, template=template)), "preload_on": ["here"], **more}
        for name, template, more in (
            ("caller", hermes, {}),
            ("strange", strange, {}),
            ("told", strange, {"tool_parser": "hermes"}),
            ("unable", unable, {}),
        )
    ]
    async with running_neuron(models) as neuron:
        for model in models:
            await neuron.until_status("loaded", model["id"])
        yield neuron


def chat(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    user = {"role": "user", "content": json.dumps(order)}
    return {"model": "caller", "messages": [user], "tools": [TOOL], **more}


def message(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**chat(order), "tools": [CLAUDES], "max_tokens": 200, **more}


async def test_openais_clients_get_tool_calls(neuron: RunningNeuron) -> None:
    """The same streamed and whole; the reason is tool_calls (cases W6, S9)."""
    whole = (await neuron.post(CHAT, chat({"reply": SAID}))).json["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] == "Let me see."
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Zürich"})
    streamed = await neuron.post(CHAT, chat({"reply": SAID}, stream=True))
    deltas = [each["choices"][0]["delta"] for each in streamed.data[:-1]]
    calls = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert streamed.content == "Let me see."
    assert calls[0]["function"]["name"] == "weather"
    assert "".join(piece["function"].get("arguments", "") for piece in calls) == call["function"]["arguments"]
    assert streamed.data[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_anthropics_clients_get_tool_use(neuron: RunningNeuron) -> None:
    """Blocks in their order, the input as input_json_delta; the reason is tool_use (case W5)."""
    whole = (await neuron.post(MESSAGES, message({"reply": SAID}))).json
    assert whole["stop_reason"] == "tool_use"
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use"]
    assert (whole["content"][1]["name"], whole["content"][1]["input"]) == ("weather", {"city": "Zürich"})
    events = (await neuron.post(MESSAGES, message({"reply": SAID}, stream=True))).data
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    assert json.loads("".join(each.get("partial_json", "") for each in deltas)) == {"city": "Zürich"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_max_tokens_cut_is_text(neuron: RunningNeuron, stream: bool) -> None:
    """Word for word, with the reason length (case W6)."""
    answer = await neuron.post(CHAT, chat({"reply": SAID}, stream=stream, max_tokens=40))
    content = answer.content if stream else answer.json["choices"][0]["message"]["content"]
    assert content == SAID.encode()[:40].decode()
    assert "tool_calls" not in answer.text


async def test_one_call_ends_an_answer_that_may_hold_no_more(neuron: RunningNeuron) -> None:
    """parallel_tool_calls false: the engine stops, too, and its blocks are free."""
    order = {"reply": f"{SAID}\n{SAID} " * 5, "step_s": 0.01}
    answer = await neuron.post(CHAT, chat(order, parallel_tool_calls=False))
    assert len(answer.json["choices"][0]["message"]["tool_calls"]) == 1
    assert answer.json["usage"]["completion_tokens"] == len(SAID.encode())
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    blocks = (await neuron.post(MESSAGES, message(order, tool_choice=choice))).json["content"]
    assert [block["type"] for block in blocks] == ["text", "tool_use"]
    await neuron.until_idle("caller")


async def test_without_tools_what_looks_like_a_call_is_text(neuron: RunningNeuron) -> None:
    """tool_choice none takes the tools away."""
    answer = await neuron.post(CHAT, chat({"reply": SAID}, tool_choice="none"))
    assert answer.json["choices"][0]["message"]["content"] == SAID


async def test_histories_with_calls_and_results_are_counted_in_both_dialects(neuron: RunningNeuron) -> None:
    """content null and absent, arguments as text, results as blocks: the template gets them all (cases W1, W3, W5)."""
    called = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
        {"role": "user", "content": json.dumps({"reply": "ok"})},
    ]
    chat_answer = await neuron.post(CHAT, {**chat({}), "messages": [{"role": "user", "content": "hi"}, *turns]})
    use = {"type": "tool_use", "id": "c", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "rain"}]}
    order = {"type": "text", "text": json.dumps({"reply": "ok"})}
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [order, result]},
    ]
    claudes = await neuron.post(MESSAGES, message({}, messages=said))
    assert chat_answer.json["choices"][0]["message"]["content"] == "ok"
    assert claudes.json["content"] == [{"type": "text", "text": "ok"}]
    counted = await neuron.post(f"{MESSAGES}/count_tokens", {"model": "caller", "messages": said, "tools": [CLAUDES]})
    used = claudes.json["usage"]
    assert counted.json["input_tokens"] == used["input_tokens"] + used.get("cache_read_input_tokens", 0)


@pytest.mark.parametrize(
    ("model", "words"),
    [("unable", "chat template has no place for tools"), ("strange", "tool_parser in the inventory")],
)
async def test_tools_that_would_be_ignored_are_refused(neuron: RunningNeuron, model: str, words: str) -> None:
    """Never a silent answer without them (cases W4, W9)."""
    for path, body in ((CHAT, chat({"reply": "x"})), (MESSAGES, message({"reply": "x"}))):
        answer = await neuron.post(path, {**body, "model": model})
        assert answer.status == 400
        assert words in answer.json["error"]["message"]
    assert (await neuron.post(CHAT, chat({"reply": SAID}, model=model, tool_choice="none"))).status == 200


async def test_the_inventory_may_say_how_a_model_calls(neuron: RunningNeuron) -> None:
    """tool_parser, where the template does not show it."""
    answer = await neuron.post(CHAT, chat({"reply": SAID}, model="told"))
    assert answer.json["choices"][0]["finish_reason"] == "tool_calls"
