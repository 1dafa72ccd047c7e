"""/v1/responses as Generations: items, tools, forms, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_contracts.wire.errors import ImagesNotSupported, InvalidParameter, InvalidRequest, UnsupportedParameter
from cortex_dialects import unsupported
from cortex_dialects.generation import ChatPrompt, Generation
from cortex_dialects.responses import parse_responses, responses_to_chat

TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
OTHER = {"type": "function", "name": "g"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a": 1}', "status": "x"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
}


def parsed(given: Any = "x", **fields: Any) -> Generation:
    return parse_responses(json.dumps({"model": "m", "input": given, **fields}).encode())


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    prompt = parsed(list(items), **fields).prompts[0]
    assert isinstance(prompt, ChatPrompt)
    return list(prompt.messages)


def refusal(given: Any = "x", **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parsed(given, **fields)
    return refused.value


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_string_is_what_the_user_says():
    """The shortest request there is."""
    (prompt,) = parsed("Hi").prompts
    assert prompt == ChatPrompt(({"role": "user", "content": "Hi"},), place="input")


def test_instructions_come_first_and_no_word_of_them_is_changed():
    """Also where the input has a system prompt of its own: neither is dropped or merged (case W8)."""
    found = messages({"role": "developer", "content": " two "}, user("x"), instructions="one\n")
    assert [turn["content"] for turn in found] == ["one\n", " two ", "x"]
    assert [turn["role"] for turn in found] == ["system", "system", "user"]


@pytest.mark.parametrize(
    "content",
    ["ab", [{"type": "input_text", "text": "ab"}], [{"type": "output_text", "text": "ab"}]],
)
def test_a_message_may_be_a_string_or_parts_with_or_without_its_type(content):
    """As the SDK's easy form has it, and as an answer's own items come back."""
    assert messages({"role": "user", "content": content}) == [user("ab")]
    assert messages({"type": "message", "role": "user", "content": content}) == [user("ab")]


def test_what_an_answer_said_comes_back_as_one_turn():
    """Its thoughts, its text and its calls are one message of the template's, and results follow it (case W3)."""
    assert messages(user("q"), THOUGHT, SAID, CALL, {**CALL, "call_id": "c2"}, RESULT, user("go on")) == [
        user("q"),
        {
            "role": "assistant",
            "content": "Hi.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        user("go on"),
    ]


def test_text_after_a_call_does_not_tear_it_from_its_result():
    """Templates want results right after the turn that called."""
    found = messages(CALL, SAID, RESULT)
    assert [turn["role"] for turn in found] == ["assistant", "tool"]
    assert found[0]["content"] == "Hi."


def test_two_answers_in_a_row_stay_two():
    """Examples that a client wrote, or thoughts that begin anew."""
    assert [turn["content"] for turn in messages(SAID, SAID)] == ["Hi.", "Hi."]
    assert [turn.get("reasoning_content") for turn in messages(THOUGHT, SAID, THOUGHT, SAID)] == ["hm", "hm"]


def test_thoughts_come_from_the_summary_where_there_is_nothing_else():
    """Encrypted thoughts of another service cannot be read here: they are left out, and the turn is not."""
    summed = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "so"}]}
    sealed = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAAA"}
    assert messages(summed, SAID)[0]["reasoning_content"] == "so"
    assert "reasoning_content" not in messages(sealed, SAID)[0]
    assert messages(user("q"), sealed) == [user("q")]


def test_a_refusal_is_what_the_model_said():
    """Its words are not lost on the next turn."""
    part = {"type": "refusal", "refusal": "I won't."}
    assert messages({"role": "assistant", "content": [part]}) == [{"role": "assistant", "content": "I won't."}]


def test_a_result_may_be_parts():
    """As agents send what a tool has printed."""
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert messages(CALL, {**RESULT, "output": parts})[1]["content"] == "a\nb"


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}, "input[0].content[0]"),
        ({**RESULT, "output": [{"type": "input_image", "image_url": "data:,"}]}, "input[0].output[0]"),
    ],
)
def test_an_image_is_refused_by_its_place(item, path):
    """Before anything is computed (case W10)."""
    error = refusal([item])
    assert (type(error), error.param) == (ImagesNotSupported, path)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": "compaction", "id": "c", "encrypted_content": "gAAAA"},
        {"type": "compaction_trigger"},
        {"type": "configuration_update", "reasoning": {"effort": "low"}},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "42"}]},
        {"type": "of_tomorrow", "content": [{"type": "text", "text": "x"}]},
    ],
)
def test_an_item_that_would_have_told_the_model_something_is_refused_by_its_place(item):
    """An answer without it would be one to another question."""
    error = refusal([user("x"), item])
    assert (type(error), error.param) == (UnsupportedParameter, "input[1]")
    assert (item.get("type") or item["id"]) in error.message or item["id"] in error.message


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "file_search_call", "id": "fs", "status": "completed", "queries": ["x"], "results": None},
        {"type": "of_tomorrow", "id": "t", "status": "completed"},
    ],
)
def test_an_item_that_tells_the_model_nothing_is_left_out(item):
    """A history from elsewhere goes on here; the answer's own turn stays whole around it."""
    assert messages(user("x"), item) == [user("x")]
    assert messages(THOUGHT, item, SAID) == messages(THOUGHT, SAID)


@pytest.mark.parametrize("kind", [{}, [], ["message"], 5, None, True])
def test_an_item_whose_type_is_no_word_is_refused_by_its_place(kind):
    """Whatever it is instead."""
    assert refusal([user("x"), {"type": kind}]).param == "input[1]"


def test_functions_reach_the_template_in_its_own_form():
    """Flat here, nested there; what a schema breaks is called by the place that the client knows."""
    generation = parsed(tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
    assert generation.prompts[0].tools == ({"type": "function", "function": function},)
    use = generation.tool_use
    assert (use.forced, use.parallel, use.tools[0].strict, use.tools[0].place) == (
        True, False, True, "tools[0].parameters",
    )  # fmt: skip


def test_only_the_allowed_tools_are_offered():
    """With the mode that stands there."""
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    generation = parsed(tools=[TOOL, OTHER], tool_choice=choice)
    assert [tool.name for tool in generation.tool_use.tools] == ["g"]
    assert [tool["function"]["name"] for tool in generation.prompts[0].tools] == ["g"]
    assert generation.tool_use.forced
    assert generation.repeated.tool_choice == choice
    assert len(generation.repeated.tools) == 2


def test_a_named_function_is_forced():
    """And none is looked for with `none`."""
    assert parsed(tools=[TOOL, OTHER], tool_choice={"type": "function", "name": "g"}).tool_use.tools[0].name == "g"
    assert parsed(tools=[TOOL], tool_choice="none").tool_use is None


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1]", "web_search"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0]", "mcp"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice", "file_search"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send all items"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "send all items"),
        ({"background": True}, "background", "stream it"),
        ({"prompt": {"id": "p"}}, "prompt", "not supported"),
        ({"truncation": "auto"}, "truncation", "'disabled'"),
        ({"text": {"verbosity": "high"}}, "text.verbosity", "'medium'"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "send False"),
        ({"tools": [{**TOOL, "allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers[0]", "'direct'"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "'auto'"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "'standard'"),
        ({"frequency": 1}, "frequency", "not a parameter"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(fields, param, says):
    """Never an answer to something else (case W9)."""
    error = refusal(**fields)
    assert (type(error), error.param) == (UnsupportedParameter, param)
    assert says in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["everything"]}, "include[0]"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "h"}}, "tool_choice.name"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [OTHER]}},
            "tool_choice.tools[0].name",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"given": []}, "input"),
        ({"given": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        (
            {"given": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        ({"given": [7]}, "input[0]"),
        ({"given": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ],
)
def test_what_is_wrong_is_called_by_its_place(fields, param):
    """In the client's own words, though it is read as a chat request."""
    error = refusal(**fields)
    assert (type(error), error.param) == (InvalidParameter, param)
    assert error.message.startswith(param)


def test_each_parameter_comes_to_what_it_says():
    """Those that shape the answer."""
    generation = parsed(
        stream=True,
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=3,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "medium"},
        user="u",
    )
    assert (generation.stream, generation.max_tokens, generation.logprobs, generation.user) == (True, 9, 3, "u")
    assert (generation.sampling.temperature, generation.sampling.top_p) == (0.5, 0.9)
    assert generation.prompts[0].template_kwargs["reasoning_effort"] == "low"
    form = generation.answer_format
    assert (form.kind, form.value, form.place) == ("json_schema", {"type": "object"}, "text.format.schema")
    assert parsed(text={"format": {"type": "json_object"}}).answer_format.value == {"type": "object"}
    assert parsed(text={"format": {"type": "text"}}).answer_format is None
    assert parsed(include=["message.output_text.logprobs"]).logprobs == 0
    assert parsed().logprobs is None


def test_null_is_the_same_as_absent():
    """Everywhere: SDKs send what their users left open as null."""
    names = ("instructions", "tools", "tool_choice", "text", "reasoning", "include", "background", "truncation")
    names += ("previous_response_id", "conversation", "metadata", "store", "max_output_tokens", "prompt")
    assert parsed(**dict.fromkeys(names)) == parsed()


@pytest.mark.parametrize("name", [name for name in unsupported.RESPONSES if "[]" not in name])
def test_a_refused_parameter_may_say_that_it_asks_for_nothing(name):
    """SDKs and agents send defaults along."""
    outer, _, inner = name.partition(".")
    for value in unsupported.RESPONSES[name]:
        asked = parsed(**{outer: {inner: value} if inner else value})
        assert asked == parsed()


def test_a_tool_may_say_that_it_asks_for_nothing():
    """It is there at once, and the model itself calls it and waits for it."""
    nothing = {"defer_loading": False, "async": False, "allowed_callers": ["direct"], "output_schema": None}
    assert parsed(tools=[{**TOOL, **nothing}]) == parsed(tools=[TOOL])


def test_an_answer_repeats_what_was_asked_and_no_defaults_that_it_does_not_know():
    """Temperature of a request that said nothing is the model's own."""
    told = parsed(tools=[OTHER], metadata={"a": "b"}, top_p=0.5, instructions="i").repeated
    assert (told.metadata, told.top_p, told.temperature, told.instructions) == ({"a": "b"}, 0.5, None, "i")
    assert told.tools == [{"type": "function", "name": "g", "description": None, "parameters": None, "strict": None}]


def test_for_an_engine_that_speaks_only_chat_a_request_is_a_chat_request():
    """With usage asked of a stream, images passed on for the engine to judge, and arguments as text."""
    picture = {"type": "input_image", "image_url": "data:,", "detail": "low"}
    body = {
        "model": "m",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}, picture]}, CALL, RESULT],
        "stream": True,
        "max_output_tokens": 9,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
    }
    chat, repeated = responses_to_chat(body)
    assert chat["messages"][0]["content"] == [
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
    ]
    assert chat["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert (chat["max_completion_tokens"], chat["stream_options"]) == (9, {"include_usage": True})
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert chat["response_format"]["json_schema"] == {"name": "n", "schema": {}, "strict": True}
    assert repeated.max_output_tokens == 9
