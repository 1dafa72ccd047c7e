"""A turn with a tool call and its result, as the official SDKs have it, through a gateway to a neuron."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import gateway_process
import openai
import pytest
import pytest_asyncio
from gateway_process import RunningGateway, model_entry
from neuron_process import REAL, running_neuron
from pydantic import BaseModel
from scripted_model import write_model
from tiny_model import write_byte_model

HERMES = (Path(__file__).parents[1] / "unit/neuron/families/hermes.jinja").read_text()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Zürich"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
FLAT: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
CLAUDES = {"name": "weather", "description": "", "input_schema": SCHEMA}
SAID = 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
ORDER = {"role": "user", "content": json.dumps({"reply": SAID})}


class Answer(BaseModel):
    """What a client wants parsed."""

    yes: bool
    city: Literal["Oslo", "Zürich"] | None


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """In front of two neurons: one whose model says what it is told, one whose model says what a grammar leaves it."""
    folder = tmp_path_factory.mktemp("fleet")
    told = {"id": "told", "source": str(write_model(folder / "told", template=HERMES)), "preload_on": ["one"]}
    source = write_byte_model(folder / "random", HERMES)
    random = {"id": "random", "source": str(source), "vram_mb": 64, "preload_on": ["two"]}
    declared = [model_entry(each["id"], vram_mb=each.get("vram_mb", 10)) for each in (told, random)]
    async with (
        running_neuron([told], name="one") as one,
        running_neuron([random], REAL, name="two") as two,
    ):
        await one.until_status("loaded", "told")
        await two.until_status("loaded", "random", timeout_s=60)
        async with gateway_process.running(folder, [one, two], declared) as running:  # type: ignore[list-item]
            await running.health(
                lambda health: {"told", "random"} <= {m for n in health["neurons"] for m in n["models"]}
            )
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def oai(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def claude(gateway: RunningGateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="x", max_retries=0) as client:
        yield client


async def test_openais_client_streams_a_call_and_sends_its_result(oai: openai.AsyncOpenAI) -> None:
    """The SDK's own accumulator puts the call together; the message goes back as it is."""
    messages: list[Any] = [ORDER]
    async with oai.chat.completions.stream(model="told", messages=messages, tools=[TOOL]) as stream:
        kinds = [event.type async for event in stream]
        message = (await stream.get_final_completion()).choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = message.tool_calls or ()
    assert json.loads(call.function.arguments) == {"city": "Zürich"}
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    messages.append({"role": "user", "content": json.dumps({"reply": "It rains."})})
    answer = await oai.chat.completions.create(model="told", messages=messages, tools=[TOOL])
    assert answer.choices[0].message.content == "It rains."


async def test_openais_client_streams_a_response_with_a_call_and_sends_its_result(oai: openai.AsyncOpenAI) -> None:
    """The SDK's own accumulator; the answer's items go back as they are, beside the result."""
    items: list[Any] = [ORDER]
    async with oai.responses.stream(model="told", input=items, tools=[FLAT]) as stream:
        kinds = [event.type async for event in stream]
        answer = await stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert {"response.function_call_arguments.done", "response.output_item.done"} < set(kinds)
    assert (answer.status, answer.store, answer.output_text) == ("completed", False, "Let me see.")  # type: ignore[attr-defined]
    call = answer.output[-1]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Zürich"}
    items += answer.output
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    items.append({"role": "user", "content": json.dumps({"reply": "It rains."})})
    again = await oai.responses.create(model="told", input=items, tools=[FLAT], instructions="Be brief.")
    assert (again.output_text, again.instructions) == ("It rains.", "Be brief.")
    assert again.usage is not None
    assert again.usage.total_tokens == again.usage.input_tokens + again.usage.output_tokens


async def test_openais_client_meets_its_own_errors_of_a_response(oai: openai.AsyncOpenAI) -> None:
    """What is refused, and a stream that fails in its middle (case S6)."""
    with pytest.raises(openai.BadRequestError, match="send all items") as refused:
        await oai.responses.create(model="told", input="x", previous_response_id="resp_1")
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "unsupported_parameter")
    stream = await oai.responses.create(
        model="told", input=json.dumps({"reply": "hello", "fail_after": 2}), stream=True
    )
    kinds: list[str] = []

    async def read() -> None:
        async for event in stream:
            kinds.append(event.type)

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert kinds[-1] == "response.failed"
    assert failed.value.code == "non_finite_logits"


async def test_anthropics_client_streams_a_call_and_sends_its_result(claude: anthropic.AsyncAnthropic) -> None:
    """The same in the other dialect."""
    messages: list[Any] = [ORDER]
    async with claude.messages.stream(model="told", max_tokens=200, messages=messages, tools=[CLAUDES]) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "tool_use"
    text, use = message.content
    assert (text.type, use.type) == ("text", "tool_use")
    assert use.input == {"city": "Zürich"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    order = {"type": "text", "text": json.dumps({"reply": "It rains."})}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result, order]}]
    answer = await claude.messages.create(model="told", max_tokens=50, messages=messages, tools=[CLAUDES])
    assert answer.content[0].text == "It rains."
    counted = await claude.messages.count_tokens(model="told", messages=messages, tools=[CLAUDES])
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


async def test_forced_calls_are_made_by_a_model_that_knows_none(
    oai: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    """A named tool and any, in both dialects."""
    quiet = {"chat_template_kwargs": {"enable_thinking": False}}
    user: list[Any] = [{"role": "user", "content": "hi"}]
    named: Any = {"type": "function", "function": {"name": "weather"}}
    answer = await oai.chat.completions.create(
        model="random", messages=user, tools=[TOOL], tool_choice=named, max_tokens=300, extra_body=quiet
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Zürich")
    message = await claude.messages.create(
        model="random",
        max_tokens=300,
        messages=user,
        tools=[CLAUDES],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "disabled"},
    )
    (use,) = message.content
    assert (message.stop_reason, use.type, use.input["city"] in ("Oslo", "Zürich")) == ("tool_use", "tool_use", True)


LOOSE: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
QUIET: Any = {"chat_template_kwargs": {"enable_thinking": False}}
USER: Any = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("max_tokens", [300, 50])
async def test_accumulators_come_to_the_call_of_an_answer_in_one_piece(
    oai: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, max_tokens: int
) -> None:
    """The SDKs' own, piece by piece as it is written: also of a call that max_tokens has cut (case S9)."""
    forced: Any = {"type": "function", "function": {"name": "weather"}}
    asked: Any = {"model": "random", "messages": USER, "max_tokens": max_tokens}
    chat: Any = {**asked, "tools": [LOOSE], "tool_choice": forced, "temperature": 0, "extra_body": QUIET}
    async with oai.chat.completions.stream(**chat) as stream:
        kinds = [event.type async for event in stream]
        streamed = stream.current_completion_snapshot.choices[0]  # of a cut one there is no final completion
    whole = (await oai.chat.completions.create(**chat)).choices[0]
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    assert [each.function.model_dump(include={"name", "arguments"}) for each in streamed.message.tool_calls or ()] == [
        each.function.model_dump(include={"name", "arguments"}) for each in whole.message.tool_calls
    ]
    assert streamed.finish_reason == whole.finish_reason
    one_call: Any = {"type": "any", "disable_parallel_tool_use": True}
    message: Any = {**asked, "tools": [CLAUDES], "tool_choice": one_call, "thinking": {"type": "disabled"}}
    message["extra_body"] = {"temperature": 0}
    async with claude.messages.stream(**message) as events:
        parts = [event.type async for event in events]
        final = await events.get_final_message()
    one = await claude.messages.create(**message)
    assert parts.count("input_json") > 3
    assert [(each.name, each.input) for each in final.content] == [(each.name, each.input) for each in one.content]
    assert final.stop_reason == one.stop_reason == ("tool_use" if max_tokens == 300 else "max_tokens")


@pytest.mark.parametrize("max_tokens", [300, 50])
async def test_a_responses_events_come_to_the_call_of_an_answer_in_one_piece(
    oai: openai.AsyncOpenAI, max_tokens: int
) -> None:
    """Its deltas, what repeats them at its end, and the response in the last event (case S9)."""
    asked: Any = {
        "model": "random",
        "input": "hi",
        "tools": [FLAT],
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": max_tokens,
        "reasoning": {"effort": "none"},
        "temperature": 0,
    }
    events = [event async for event in await oai.responses.create(**asked, stream=True)]
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    whole = await oai.responses.create(**asked)
    last = events[-1].response
    assert len(deltas) > 3
    assert "".join(deltas) == done.arguments == last.output[0].arguments == whole.output[0].arguments
    assert last.status == whole.status == ("completed" if max_tokens == 300 else "incomplete")


async def test_openais_client_parses_what_it_asked_for(oai: openai.AsyncOpenAI) -> None:
    """A pydantic model as response_format: strict, with its null as a choice."""
    user: list[Any] = [{"role": "user", "content": "hi"}]
    answer = await oai.chat.completions.parse(
        model="random",
        messages=user,
        response_format=Answer,
        max_tokens=400,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)


async def test_openais_client_parses_what_a_response_is_to_be(oai: openai.AsyncOpenAI) -> None:
    """The same pydantic model as text_format; and a forced call that a model makes who knows none."""
    answer = await oai.responses.parse(
        model="random", input="hi", text_format=Answer, max_output_tokens=400, reasoning={"effort": "none"}
    )
    assert isinstance(answer.output_parsed, Answer)
    called = await oai.responses.create(
        model="random",
        input="hi",
        tools=[FLAT],
        tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=300,
        reasoning={"effort": "none"},
    )
    (call,) = called.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["city"] in ("Oslo", "Zürich")


async def test_what_no_grammar_can_keep_to_is_the_sdks_own_error(oai: openai.AsyncOpenAI) -> None:
    """400 through the gateway, with the parameter's name; streamed, too, before any event."""
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    user: list[Any] = [{"role": "user", "content": "hi"}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await oai.chat.completions.create(model="random", messages=user, response_format=schema, stream=stream)  # type: ignore[call-overload]
        assert refused.value.param == "response_format.json_schema.schema"
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as refused:
        await oai.responses.create(model="random", input="hi", text=form)
    assert refused.value.param == "text.format.schema"
