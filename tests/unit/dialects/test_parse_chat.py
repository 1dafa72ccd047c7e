"""OpenAI's chat requests: what each parameter comes to, and what is refused in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_contracts.wire.errors import (
    CortexError,
    ImagesNotSupported,
    InvalidJson,
    InvalidParameter,
    UnsupportedParameter,
)
from cortex_dialects.generation import ChatPrompt, Generation
from cortex_dialects.openai import parse_chat

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}


def chat(messages: list[Any] | None = None, **fields: Any) -> Generation:
    return parse_chat(json.dumps({"model": "m", "messages": messages or [USER], **fields}).encode())


def prompt(messages: list[Any] | None = None, **fields: Any) -> ChatPrompt:
    (only,) = chat(messages, **fields).prompts
    assert isinstance(only, ChatPrompt)
    return only


def refusal(messages: list[Any] | None = None, **fields: Any) -> CortexError:
    with pytest.raises(CortexError) as caught:
        chat(messages, **fields)
    assert caught.value.status == 400
    return caught.value


def test_a_plain_request_leaves_everything_else_to_the_model():
    """What the client did not say is None, so that the model's generation_config can say it (case W9)."""
    assert chat() == Generation(model="m", prompts=(ChatPrompt((USER,)),))


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty"])
def test_sampling_parameters_are_honoured(name):
    """Each reaches the generation under its own name (case W9)."""
    assert getattr(chat(**{name: 1}).sampling, name) == 1
    assert chat(**{name: None}) == chat()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["x", "y"]}, {"stop": ("x", "y")}),
        ({"stop": []}, {"stop": ()}),
        ({"n": 3}, {"n": 3}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 4}, {"logprobs": 4}),
        ({"logprobs": False, "top_logprobs": 0}, {"logprobs": None}),
        ({"stream": True}, {"stream": True, "include_usage": False}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"return_token_ids": True}, {"return_token_ids": True}),
        ({"user": "u"}, {"user": "u"}),
    ],
)
def test_other_parameters_are_honoured(fields, expected):
    """max_completion_tokens wins over max_tokens (case W2); usage on streams is asked for by stream_options (S5)."""
    generation = chat(**fields)
    assert {name: getattr(generation, name) for name in expected} == expected


def test_logit_bias_is_by_token_id():
    """JSON's keys are strings, the engine's are numbers."""
    assert chat(logit_bias={"5": -100, "17": 2.5}).sampling.logit_bias == {5: -100, 17: 2.5}


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
def test_a_tool_call_turn_needs_no_content(content):
    """Clients send null or nothing; a template that adds strings gets an empty one (case W1)."""
    turn = {"role": "assistant", "tool_calls": [CALL], **content}
    tool = {"role": "tool", "tool_call_id": "c1", "content": "42"}
    _, assistant, result = prompt([USER, turn, tool]).messages
    assert assistant["content"] == ""
    assert assistant["tool_calls"][0]["id"] == "c1"
    assert result == tool


@pytest.mark.parametrize(
    ("sent", "rendered"),
    [
        ('{"a": {"b": [1, "é"]}}', {"a": {"b": [1, "é"]}}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        ('{"a": ', '{"a": '),
        ("[1]", "[1]"),
        ('{"a": NaN}', '{"a": NaN}'),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_tool_arguments_are_an_object_for_the_template(sent, rendered):
    """Arguments arrive as a JSON string; what is no object is left as it came (case W3)."""
    call = {**CALL, "function": {"name": "f", "arguments": sent}}
    turn = prompt([USER, {"role": "assistant", "tool_calls": [call]}]).messages[1]
    assert turn["tool_calls"][0]["function"] == {"name": "f", "arguments": rendered}


def test_text_parts_become_one_string():
    """Templates take strings; parts are joined by a line end, as vLLM and llama.cpp do."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]
    assert prompt([{"role": "user", "content": parts}]).messages[0]["content"] == "a\nb"


def test_system_prompts_pass_untouched():
    """None is added, moved, merged or changed; `developer` is the new name of the same role (case W8)."""
    messages = [
        {"role": "system", "content": "  You are\n\n terse.  "},
        USER,
        {"role": "system", "content": ""},
        {"role": "developer", "content": "be kind"},
    ]
    assert prompt(messages).messages == (*messages[:3], {"role": "system", "content": "be kind"})
    assert prompt([USER]).messages == (USER,)


def test_fields_of_a_message_that_are_ours_not_to_know_reach_the_template():
    """A template may use a name, reasoning of earlier turns, or a field of its own."""
    turn = {"role": "assistant", "content": "x", "reasoning_content": "because", "name": "bob", "tool_plan": "p"}
    assert prompt([turn, USER]).messages[0] == turn


def test_what_servers_add_to_their_answers_may_be_sent_back():
    """Clients append the SDK's message object as it is, nulls and all."""
    turn = {"role": "assistant", "content": "x", "refusal": None, "audio": None, "function_call": None}
    assert prompt([turn, USER]).messages[0] == {"role": "assistant", "content": "x"}


def test_a_refusal_is_what_the_model_said():
    """Its words reach the template as any others, wherever the client has them from."""
    part = {"type": "refusal", "refusal": "I won't."}
    for turn in ({"content": None, "refusal": "I won't."}, {"content": [part]}):
        assert prompt([{"role": "assistant", **turn}, USER]).messages[0] == {"role": "assistant", "content": "I won't."}


def test_tools_go_to_the_template_as_they_came():
    """Order, unknown keys and all; `none` takes them away."""
    assert prompt(tools=[TOOL]).tools == (TOOL,)
    assert prompt(tools=[TOOL], tool_choice="auto").tools == (TOOL,)
    assert prompt(tools=[TOOL], tool_choice="none").tools == ()
    assert prompt(tools=[]).tools == prompt(tools=None).tools == ()


def test_template_arguments_are_passed_on():
    """vLLM's chat_template_kwargs."""
    assert prompt(chat_template_kwargs={"date": "x"}).template_kwargs == {"date": "x"}


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_thinking_is_switched_by_whichever_name_the_template_knows(fields, thinking):
    """Qwen's ask for enable_thinking, DeepSeek's for thinking; what the client says of the switch itself wins."""
    kwargs = prompt(**fields).template_kwargs
    assert (kwargs["enable_thinking"], kwargs["thinking"]) == (thinking, thinking)
    assert kwargs.get("reasoning_effort") == fields.get("reasoning_effort")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "text"}),
        ("modalities", ["text"]),
        ("functions", []),
        ("verbosity", "medium"),
        ("best_of", 1),
        ("audio", None),
        ("min_tokens", 0),
        ("continue_final_message", False),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("service_tier", "auto"),
        ("parallel_tool_calls", False),
        ("safety_identifier", "x"),
        ("prompt_cache_key", "x"),
    ],
)
def test_parameters_that_ask_for_nothing_are_accepted(name, value):
    """SDKs and agents send them on every request."""
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", ["audio"]),
        ("audio", {"voice": "x"}),
        ("functions", [{"name": "f"}]),
        ("best_of", 2),
        ("prediction", {"type": "content"}),
        ("web_search_options", {}),
        ("min_tokens", 4),
        ("echo", True),
    ],
)
def test_a_known_parameter_that_is_not_honoured_is_named(name, value):
    """Never silently ignored: the answer would not be what was asked for (case W9)."""
    error = refusal(**{name: value})
    assert isinstance(error, UnsupportedParameter)
    assert error.param == name
    assert error.message.startswith(f"{name}: not supported")


def test_an_unknown_parameter_is_named_with_the_likely_one():
    """A typo would otherwise be a parameter that was silently ignored (case W9)."""
    error = refusal(temprature=0)
    assert isinstance(error, UnsupportedParameter)
    assert error.message == "'temprature' is not a parameter; did you mean 'temperature'?"
    assert refusal(xyzzy=0).message == "'xyzzy' is not a parameter"
    assert refusal(stream=True, stream_options={"usage": True}).param == "stream_options.usage"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 2**40}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 10**400}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x", 5]}, "stop[1]"),
        ({"stop": ""}, "stop"),
        ({"stop": {}}, "stop"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_a_value_out_of_range_or_of_the_wrong_type_is_named(fields, param):
    """The path to the value, what was expected, and what it is."""
    error = refusal(**fields)
    assert isinstance(error, InvalidParameter)
    assert error.param == param
    assert error.message.startswith(param)


@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        ({"role": "user"}, "messages[1].content", "required and missing"),
        ({"content": "x"}, "messages[1].role", "required and missing"),
        ({"role": "boss", "content": "x"}, "messages[1].role", "expected 'system', 'developer', 'user'"),
        ({"role": "user", "content": 5}, "messages[1].content", "expected a string or a list of parts; it is 5"),
        ({"role": "user", "content": None}, "messages[1].content", "it is None"),
        ({"role": "user", "content": ["x"]}, "messages[1].content[0]", "expected an object"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text", "required and missing"),
        ({"role": "user", "content": [{"type": "file"}]}, "messages[1].content[0].type", "'text', 'refusal'"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0].function", "required and missing"),
        ("hi", "messages[1]", "expected an object; it is 'hi'"),
    ],
)
def test_a_bad_message_is_named_by_its_path(message, param, words):
    """Such as messages[1].content, with the words of one branch, not of every branch of a union."""
    error = refusal([USER, message])
    assert error.param == param
    assert words in error.message


def test_a_missing_part_of_the_request_is_named():
    """No messages, none in the list, and no model."""
    for body, param in (({"model": "m"}, "messages"), ({"messages": [USER]}, "model")):
        with pytest.raises(InvalidParameter, match="required and missing") as caught:
            parse_chat(json.dumps(body).encode())
        assert caught.value.param == param
    with pytest.raises(InvalidParameter, match="messages: List should have at least 1 item"):
        parse_chat(b'{"model": "m", "messages": []}')


def test_an_image_is_refused_before_anything_is_computed():
    """All models are text models; a remote URL is certainly not fetched (case W10)."""
    error = refusal([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}])
    assert isinstance(error, ImagesNotSupported)
    assert error.param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON: Expecting value: line 1, column 1"),
        (b'{"model": "m", 1}', "line 1, column 16 (character 15)"),
        (b"[]", "must be a JSON object; it is an array"),
        (b"null", "it is null"),
        (b"\xff{}", "not UTF-8: byte 0 is 0xff"),
        (b"[" * 200_000, "nested more than 100 deep"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested more than 100 deep"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large: 1e999"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too long"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_clean_400(body, words):
    """Never a 500, and always with the place or the culprit."""
    with pytest.raises(InvalidJson) as caught:
        parse_chat(body)
    assert words in caught.value.message


def test_json_that_only_looks_odd_is_accepted():
    """A BOM, an escaped emoji, and nesting up to the limit."""
    body = '\ufeff{"model": "m", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    (only,) = parse_chat(body.encode()).prompts
    assert only == ChatPrompt(({"role": "user", "content": "😀"},))
    deep: Any = 1
    for _ in range(97):
        deep = [deep]
    assert prompt(chat_template_kwargs={"x": deep}).template_kwargs == {"x": deep}


def test_a_huge_value_is_not_thrown_back_at_the_client():
    """An error stays readable whatever was sent."""
    assert len(refusal(temperature="x" * 10_000).message) < 300
    assert len(refusal(**{"x" * 10_000: 1}).message) < 300


def test_what_is_not_supported_is_shown_as_the_client_wrote_it() -> None:
    """Both values, the one that was sent and the one that would do, in JSON."""
    with pytest.raises(UnsupportedParameter) as refused:
        chat(modalities=["audio"])
    assert '["text"]' in str(refused.value)
    assert '["audio"]' in str(refused.value)
