"""/v1/responses at a gateway: of engines that speak only chat, and streams that begin before their model is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_process import CHAT, RESPONSES, model_entry, running
from scripted_neuron import WORDS, Fault, scripted

MODEL, OTHER, THIRD = "org-model", "other", "third"


async def test_responses_of_an_engine_that_speaks_only_chat_are_translated(tmp_path: Path) -> None:
    """Streamed and not, with the engine's refusals and a stream that it breaks (W7, S6)."""
    entries = [model_entry(MODEL, harness="vllm", aliases=["nick"])]
    async with scripted("one", MODEL) as neuron:
        neuron.harnesses = ("vllm",)
        async with running(tmp_path, [neuron], entries) as gateway:
            async with gateway.ask("nick", RESPONSES, instructions="Be brief.", store=True) as response:
                answer = await response.json()
            assert (answer["object"], answer["model"], answer["status"]) == ("response", "nick", "completed")
            assert answer["output"][0]["content"][0]["text"] == "".join(WORDS)
            assert (answer["instructions"], answer["store"], answer["usage"]["output_tokens"]) == (
                "Be brief.",
                False,
                5,
            )
            sent = json.loads(neuron.sent[-1].body)
            assert (neuron.sent[-1].path, sent["model"], sent["max_completion_tokens"]) == (CHAT, MODEL, 9)
            assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
            events = _events(await gateway.text("nick", RESPONSES))
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
            assert "".join(event["delta"] for event in events if "delta" in event) == "".join(WORDS)
            assert events[-1]["response"]["output"] == [events[-2]["item"]]
            async with gateway.ask("nick", RESPONSES, previous_response_id="resp_1") as response:
                assert (response.status, (await response.json())["error"]["param"]) == (400, "previous_response_id")
            neuron.fault = Fault.REFUSAL
            for stream in (True, False):
                async with gateway.ask("nick", RESPONSES, stream=stream) as response:
                    assert (response.status, response.headers["retry-after"]) == (503, "7")
                    assert (await response.json())["error"]["code"] == "queue_full"
            neuron.fault = Fault.BREAK
            failed, error = _events(await gateway.text("nick", RESPONSES))[-2:]
            assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
            assert (error["type"], error["code"]) == ("error", "upstream_broken")
            assert error["sequence_number"] == failed["sequence_number"] + 1


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


async def test_a_stream_that_has_begun_before_its_model_failed_to_load_ends_in_an_error(tmp_path: Path) -> None:
    """The status has gone out with the keep-alives: OpenAI's SDK raises all the same (cases S6, S10)."""
    async with scripted("one", MODEL) as neuron:
        neuron.load_s, neuron.load_fails = 1.6, True
        async with running(tmp_path, [neuron], [model_entry(OTHER), model_entry(THIRD)]) as gateway:
            text = await gateway.text(OTHER, RESPONSES)
            assert text.startswith(": keep-alive\n\n")
            (error,) = _events(text)
            assert (error["code"], error["error"]["code"], error["sequence_number"]) == (
                "model_failed",
                "model_failed",
                0,
            )
            async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
                stream = await client.responses.create(model=THIRD, input="Hi", stream=True)
                with pytest.raises(openai.APIError, match="no such file"):
                    [event async for event in stream]


async def test_a_model_that_is_loaded_for_a_stream_answers_it_from_its_first_event(tmp_path: Path) -> None:
    """Keep-alives are comments: the neuron's response.created is the first event, with number 0 (case S3)."""
    async with scripted("one", MODEL) as neuron:
        neuron.load_s = 1.6
        async with running(tmp_path, [neuron], [model_entry(OTHER)]) as gateway:
            text = await gateway.text(OTHER, RESPONSES)
            assert text.startswith(": keep-alive\n\n")
            events = _events(text)
            assert (events[0]["type"], events[0]["sequence_number"]) == ("response.created", 0)
            assert events[-1]["type"] == "response.completed"
