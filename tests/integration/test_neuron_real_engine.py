"""The daemon with the real engine and the demo model."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest
from neuron_process import CHAT, COMPLETIONS, DEMO_MODEL, MESSAGES, REAL, RunningNeuron, running_neuron, until

SAY_HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0, "max_tokens": 12}
LONG = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 300, "ignore_eos": True}


async def test_the_model_answers_in_english_and_both_dialects_agree(real_neuron: RunningNeuron) -> None:
    """Greedy text is the same streamed and whole, from OpenAI's route and Anthropic's (case S9)."""
    body = {"model": "smollm2", **SAY_HELLO}
    whole = await real_neuron.post(CHAT, body)
    text = whole.json["choices"][0]["message"]["content"]
    assert "hello" in text.lower()
    assert (await real_neuron.post(CHAT, {**body, "stream": True})).content == text
    message = await real_neuron.post(MESSAGES, body)
    assert message.json["content"][0]["text"] == text
    prompt_tokens, usage = whole.json["usage"]["prompt_tokens"], message.json["usage"]
    # All its whole blocks, for it was asked before, but for the last token.
    assert usage["cache_read_input_tokens"] == (prompt_tokens - 1) // 16 * 16
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt_tokens


async def test_a_high_request_is_answered_before_the_low_that_wait() -> None:
    """The class goes from the header to the engine's queue, over the daemon and its frames."""
    models = [{"id": "smollm2", "source": str(DEMO_MODEL), "vram_mb": 2600, "preload_on": ["here"]}]
    async with running_neuron(models, REAL, max_sequences=1, queue_limit=4) as neuron:
        await neuron.until_status("loaded", "smollm2", timeout_s=120)
        ends: list[str] = []

        async def ask(priority: str, max_tokens: int) -> None:
            body = {"model": "smollm2", **LONG, "max_tokens": max_tokens}
            assert (await neuron.post(COMPLETIONS, body, **{"x-cortex-priority": priority})).status == 200
            ends.append(priority)

        asked = []
        for waiting, (priority, max_tokens) in enumerate([("normal", 60), ("low", 1), ("low", 1), ("high", 1)]):
            asked.append(asyncio.create_task(ask(priority, max_tokens)))
            await until(lambda waiting=waiting: _waits(neuron, waiting))
        await asyncio.gather(*asked)
        assert ends == ["normal", "high", "low", "low"]


async def _waits(neuron: RunningNeuron, depth: int) -> bool:
    health = await neuron.health("smollm2")
    return bool(health["in_flight"] == depth + 1 and health["queue_depth"] == depth)


async def test_a_client_that_leaves_frees_the_engine(real_neuron: RunningNeuron) -> None:
    """In decoding, and in the prefill of a long prompt (case S8)."""
    long_prompt = {**LONG, "prompt": "one two three four five six seven " * 400}
    for body in (LONG, long_prompt):
        asked = asyncio.create_task(real_neuron.post(COMPLETIONS, {"model": "smollm2", **body, "stream": True}))
        await until(lambda: _in_flight(real_neuron))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

        async def freed() -> bool:
            row = await real_neuron.health("smollm2")
            return bool(row["in_flight"] == 0 and row["kv_blocks_free"] == row["kv_blocks_total"])

        await until(freed, 10.0)


async def _in_flight(neuron: RunningNeuron) -> bool:
    return bool((await neuron.health("smollm2"))["in_flight"])


async def test_a_stop_string_over_tokens_ends_the_answer(real_neuron: RunningNeuron) -> None:
    """And the engine stops working on it."""
    body = {"model": "smollm2", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 30}
    text = (await real_neuron.post(COMPLETIONS, body)).json["choices"][0]["text"]
    stop = text[6:12]
    cut = (await real_neuron.post(COMPLETIONS, {**body, "stop": stop})).json["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == (text[: text.find(stop)], "stop")


@pytest.mark.parametrize("method", ["ngram", "draft_model"])
async def test_drafts_change_nothing_that_a_client_sees(real_neuron: RunningNeuron, method: str) -> None:
    """Text, usage and where a stop string cuts, streamed and whole; and the metrics tell how many were right. A model
    that drafts for itself is always right, but beyond the end of an answer."""
    drafts = {"method": method, "num_speculative_tokens": 6}
    drafts |= {"model": str(DEMO_MODEL)} if method == "draft_model" else {}
    model = {"id": "smollm2", "source": str(DEMO_MODEL), "vram_mb": 2600, "preload_on": ["here"], "speculative": drafts}
    asked = {"model": "smollm2", "prompt": "one" + " two three four one" * 12, "temperature": 0}
    bodies = [{**asked, "max_tokens": 60}, {**asked, "max_tokens": 60, "stop": "four one"}]
    async with running_neuron([model], REAL) as neuron:
        await neuron.until_status("loaded", "smollm2", timeout_s=120)
        for body in bodies:
            plain, drafted = [(await each.post(COMPLETIONS, body)).json for each in (real_neuron, neuron)]
            assert drafted["choices"] == plain["choices"]
            assert drafted["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
            chunks = (await neuron.post(COMPLETIONS, {**body, "stream": True})).data
            streamed = [each["choices"][0]["text"] for each in chunks if isinstance(each, dict) and each["choices"]]
            assert "".join(streamed) == plain["choices"][0]["text"]
            assert len(streamed) < plain["usage"]["completion_tokens"] / 2 + 2
        metrics = await neuron.metrics()
    right, all_of_them = (
        metrics[f'neuron_draft_tokens_total{{kind="{kind}",model="smollm2"}}'] for kind in ("accepted", "drafted")
    )
    assert 30 < right <= all_of_them
    assert method == "ngram" or right > 0.9 * all_of_them
    assert not [name for name in await real_neuron.metrics() if name.startswith("neuron_draft_tokens")]


async def test_kill_9_of_the_engine_is_recovered_from() -> None:
    """The stream ends with an error and without [DONE]; the next request succeeds."""
    models = [{"id": "smollm2", "source": str(DEMO_MODEL), "vram_mb": 2600, "preload_on": ["here"]}]
    async with running_neuron(models, REAL) as neuron:
        await neuron.until_status("loaded", "smollm2", timeout_s=120)
        (engine,) = neuron.engines()
        asked = asyncio.create_task(neuron.post(COMPLETIONS, {"model": "smollm2", **LONG, "stream": True}))
        await until(lambda: _decoding(neuron))
        os.kill(engine.pid, signal.SIGKILL)
        answer = await asked
        assert answer.data[-1]["error"]["code"] == "group_died"
        assert "[DONE]" not in answer.text
        await neuron.until_status("loaded", "smollm2", timeout_s=60)
        assert (await neuron.post(CHAT, {"model": "smollm2", **SAY_HELLO})).status == 200
        family = neuron.family()
        assert await neuron.terminate() == 0
        await until(lambda: _all_ended(family))


async def _all_ended(family: list[psutil.Process]) -> bool:
    """multiprocessing's own helper ends by itself, a moment after the daemon."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


async def _decoding(neuron: RunningNeuron) -> bool:
    return (await neuron.metrics()).get('neuron_engine_steps_total{model="smollm2"}', 0.0) > 3
