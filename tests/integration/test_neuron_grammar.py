"""Forms and forced calls through a whole neuron, of a model with random weights: only a grammar makes it say them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from neuron_process import CHAT, COMPLETIONS, MESSAGES, REAL, Answered, RunningNeuron, running_neuron
from tiny_model import TOOL_CALL, write_byte_model

HERMES = (Path(__file__).parents[1] / "unit/neuron/families/hermes.jinja").read_text()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Zürich"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in (("weather", SCHEMA), ("clock", NOTHING))
]
CLAUDES = [{"name": "weather", "input_schema": SCHEMA}, {"name": "clock", "input_schema": NOTHING}]
USER = {"role": "user", "content": "hi"}
NAMED = {"type": "function", "function": {"name": "weather"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


@pytest_asyncio.fixture(scope="module")
async def neuron(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningNeuron]:
    """One with the real engine."""
    source = write_byte_model(tmp_path_factory.mktemp("random"), HERMES)
    models = [{"id": "random", "source": str(source), "vram_mb": 64, "preload_on": ["here"]}]
    async with running_neuron(models, REAL, max_sequences=8) as neuron:
        await neuron.until_status("loaded", "random", timeout_s=60)
        yield neuron


def chat(**more: Any) -> dict[str, Any]:
    quiet = {"enable_thinking": False}
    return {"model": "random", "messages": [USER], "max_tokens": 600, "chat_template_kwargs": quiet, "seed": 1, **more}


def message(**more: Any) -> dict[str, Any]:
    return {"model": "random", "messages": [USER], "max_tokens": 600, "thinking": {"type": "disabled"}, **more}


def check(value: Any) -> None:
    assert value["city"] in ("Oslo", "Zürich")
    assert value["days"] in range(1, 10)
    assert set(value) == {"city", "days"}


@pytest.mark.parametrize("seed", range(3))
async def test_an_answer_is_json_of_the_schema_streamed_and_whole(neuron: RunningNeuron, seed: int) -> None:
    """The same with a seed (cases S9, S1)."""
    whole = await neuron.post(CHAT, chat(response_format=FORMAT, seed=seed))
    content = whole.json["choices"][0]["message"]["content"]
    check(json.loads(content))
    assert whole.json["choices"][0]["finish_reason"] == "stop"
    streamed = await neuron.post(CHAT, chat(response_format=FORMAT, seed=seed, stream=True))
    assert streamed.content == content
    message_format = {"format": {"type": "json_schema", "schema": SCHEMA}}
    check(json.loads((await neuron.post(MESSAGES, message(output_config=message_format))).json["content"][0]["text"]))


async def test_peers_spellings_are_kept_to(neuron: RunningNeuron) -> None:
    """vLLM's, older and newer, also of a completion."""
    for asked, good in (
        ({"guided_choice": ["ja", "nein"]}, ("ja", "nein")),
        ({"guided_regex": "[ab]{3}"}, None),
        ({"guided_grammar": 'root ::= "x" | "y"'}, ("x", "y")),
        ({"structured_outputs": {"choice": ["ja"]}}, ("ja",)),
        ({"structured_outputs": {"json": SCHEMA}}, None),
        ({"guided_json": json.dumps(SCHEMA)}, None),
    ):
        said = (await neuron.post(CHAT, chat(**asked))).json["choices"][0]["message"]["content"]
        body = {"model": "random", "prompt": "hi", "max_tokens": 600, **asked}
        completed = (await neuron.post(COMPLETIONS, body)).json["choices"][0]["text"]
        for text in (said, completed):
            if "json" in str(asked):
                check(json.loads(text))
            elif good is None:
                assert len(text) == 3
                assert set(text) <= set("ab")
            else:
                assert text in good


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_a_forced_call_is_made(neuron: RunningNeuron, choice: Any) -> None:
    """In both dialects, streamed and not, with arguments that keep to the schema."""
    body = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    whole = (await neuron.post(CHAT, body)).json["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", None)
    if call["function"]["name"] == "weather":
        check(json.loads(call["function"]["arguments"]))
    streamed = await neuron.post(CHAT, {**body, "stream": True})
    assert json.dumps(call["function"]["name"]) in streamed.text
    claudes = {"type": "any"} if choice == "required" else {"type": "tool", "name": "weather"}
    answer = await neuron.post(MESSAGES, message(tools=CLAUDES, tool_choice=claudes))
    assert answer.json["stop_reason"] == "tool_use"
    (block,) = answer.json["content"] if choice != "required" else answer.json["content"][:1]
    assert block["type"] == "tool_use"


def pieces(answer: Answered) -> tuple[list[str], str]:
    """The arguments of a stream's one call as they came, and the reason of its end."""
    choices = [each["choices"][0] for each in answer.data[:-1] if each["choices"]]
    deltas = [piece for each in choices for piece in each["delta"].get("tool_calls", ())]
    assert [piece["function"].get("name") for piece in deltas] == ["weather"] + [None] * (len(deltas) - 1)
    return [piece["function"]["arguments"] for piece in deltas], choices[-1]["finish_reason"]


UNFORCED: dict[str, Any] = {"tool_choice": "auto", "logit_bias": {str(TOOL_CALL): 100}}


@pytest.mark.parametrize("asked", [{"tool_choice": NAMED}, UNFORCED], ids=["named", "auto"])
@pytest.mark.parametrize("max_tokens", [600, 70, 58])
async def test_a_call_is_streamed_as_it_is_written(
    neuron: RunningNeuron, asked: dict[str, Any], max_tokens: int
) -> None:
    """Forced or not; its pieces join to the answer in one piece, also where max_tokens cuts it (case S9)."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}]
    body = chat(tools=tools, temperature=0, max_tokens=max_tokens, parallel_tool_calls=False, **asked)
    whole = (await neuron.post(CHAT, body)).json["choices"][0]
    arguments, reason = pieces(await neuron.post(CHAT, {**body, "stream": True}))
    (call,) = whole["message"]["tool_calls"]
    assert "".join(arguments) == call["function"]["arguments"]
    assert len(arguments) > 3
    assert whole["message"]["content"] is None
    assert reason == whole["finish_reason"]
    if reason == "tool_calls":
        check(json.loads(call["function"]["arguments"]))
    else:
        assert (reason, max_tokens < 600) == ("length", True)


async def test_arguments_that_no_schema_binds_are_an_object_even_so(neuron: RunningNeuron) -> None:
    """tool_choice auto without strict: a schema that no grammar can keep to is not even looked at."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "not": {}}}}
    body = chat(tools=[tool], max_tokens=60, stream=True, **UNFORCED)
    arguments, reason = pieces(await neuron.post(CHAT, body))
    assert "".join(arguments).startswith("{")
    assert reason in ("tool_calls", "length")


async def test_many_at_once_each_keep_to_their_own(neuron: RunningNeuron) -> None:
    """And one without a grammar among them is not bound."""
    asked = [chat(guided_choice=[f"answer {i}"], seed=i) for i in range(12)]
    free = asyncio.create_task(neuron.post(CHAT, chat(max_tokens=60, ignore_eos=True)))
    answers = await asyncio.gather(*(neuron.post(CHAT, body) for body in asked))
    assert [each.json["choices"][0]["message"]["content"] for each in answers] == [f"answer {i}" for i in range(12)]
    assert (await free).json["usage"]["completion_tokens"] == 60


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            "not",
        ),
        ({"guided_regex": "("}, "guided_regex", "regex"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "one form of answer"),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar", "x"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "strong"}}}],
                "tool_choice": "required",
            },
            "tools[0].function.parameters",
            "strong",
        ),
    ],
)
async def test_what_cannot_be_kept_to_is_refused_before_any_header(
    neuron: RunningNeuron, stream: bool, asked: dict[str, Any], param: str, words: str
) -> None:
    """400, which names the parameter and what of it (cases S10, W9)."""
    answer = await neuron.post(CHAT, chat(stream=stream, **asked))
    assert answer.status == 400
    assert (answer.json["error"]["param"], answer.json["error"]["code"]) == (param, "invalid_parameter")
    assert words in answer.json["error"]["message"]


async def test_anthropics_clients_are_told_in_their_own_words(neuron: RunningNeuron) -> None:
    """The tool's schema is called input_schema there."""
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"not": {}}}}}
    answer = await neuron.post(MESSAGES, message(tools=[tool], tool_choice={"type": "any"}))
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith("tools[0].input_schema: ")


async def test_an_answer_that_max_tokens_cuts_says_length(neuron: RunningNeuron) -> None:
    """What of a call has no name yet is text (case W6)."""
    answer = (await neuron.post(CHAT, chat(tools=TOOLS, tool_choice="required", max_tokens=15))).json["choices"][0]
    assert answer["finish_reason"] == "length"
    assert "tool_calls" not in answer["message"]
    assert answer["message"]["content"].startswith("<tool_call>")


async def test_a_client_that_leaves_while_its_grammar_is_compiled_leaves_nothing(neuron: RunningNeuron) -> None:
    """No seat, no block, no sequence (case S8); and the model goes on serving."""
    for i in range(6):
        asked = chat(guided_regex=f"[a-z]{{{400 + i}}}", stream=True)
        task = asyncio.create_task(neuron.post(CHAT, asked))
        await asyncio.sleep(0.005 * i)
        task.cancel()
    await neuron.until_idle("random")
    assert (await neuron.post(CHAT, chat(guided_choice=["ok"]))).json["choices"][0]["message"]["content"] == "ok"
