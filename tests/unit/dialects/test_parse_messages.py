"""Anthropic's requests: into OpenAI's words, and into generations (case W5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_contracts.wire.errors import CortexError, ImagesNotSupported, InvalidParameter, UnsupportedParameter
from cortex_dialects.anthropic import messages_to_chat, parse_count_tokens, parse_messages
from cortex_dialects.generation import ChatPrompt

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "f", "description": "does f", "input_schema": {"type": "object", "properties": {"a": {}}}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "é"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
CHAT_FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 8, "messages": list(messages) or [USER], **fields}


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return messages_to_chat(body(*messages, **fields))


def refusal(*messages: Any, **fields: Any) -> CortexError:
    with pytest.raises(CortexError) as caught:
        parse_messages(json.dumps(body(*messages, **fields)).encode())
    assert caught.value.status == 400
    return caught.value


def test_a_plain_request_stays_plain():
    """Nothing is added that the client did not say, no system prompt above all (case W8)."""
    assert chat() == {"model": "m", "max_tokens": 8, "messages": [USER]}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("  be\n terse ", [{"role": "system", "content": "  be\n terse "}]),
        ("", [{"role": "system", "content": ""}]),
        ([text("one")], [{"role": "system", "content": "one"}]),
        (
            [text("a"), text("b")],
            [{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        ),
        ([], []),
        (None, []),
    ],
)
def test_a_system_prompt_is_a_string_or_blocks(system, expected):
    """Word for word; blocks stay apart (case W8)."""
    assert chat(system=system)["messages"] == [*expected, USER]


def test_system_turns_stay_where_they_are():
    """A system turn in the middle is not moved to the front."""
    turns = [USER, {"role": "system", "content": "now French"}, {"role": "user", "content": "go on"}]
    assert chat(*turns)["messages"] == turns


def test_tools_become_functions():
    """input_schema is OpenAI's parameters."""
    assert chat(tools=[TOOL, {"name": "g", "input_schema": {}, "type": "custom"}])["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does f", "parameters": TOOL["input_schema"]},
        },
        {"type": "function", "function": {"name": "g", "parameters": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_each_tool_choice_has_its_counterpart(choice, expected):
    """auto, any, none and tool."""
    translated = chat(tools=[TOOL], tool_choice=choice)
    assert {name: translated[name] for name in expected} == expected
    assert ("tools" in translated) == (choice["type"] != "none")


def test_a_tool_call_and_its_result_are_translated():
    """Results come before the rest of the user turn, wherever they stood in it; an error is said in the text."""
    assert chat(
        USER,
        {"role": "assistant", "content": [text("let me see"), USE]},
        {
            "role": "user",
            "content": [
                text("and then?"),
                {"type": "tool_result", "tool_use_id": "t1", "content": [text("42")]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no such file", "is_error": True},
                {"type": "tool_result", "tool_use_id": "t3"},
            ],
        },
    )["messages"][1:] == [
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no such file"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": "and then?"},
    ]


def test_a_turn_of_results_only_makes_no_empty_user_turn():
    """An empty user message would be words that the client did not say."""
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "42"}
    messages = chat(USER, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [result]})["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["content"] is None


def test_images_become_data_urls():
    """Those of a tool result go with the rest of the turn: OpenAI's tool messages hold text only."""
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [text("a shot"), PNG]}
    link = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    assert chat({"role": "user", "content": [result, text("look"), link]})["messages"] == [
        {"role": "tool", "tool_call_id": "t1", "content": "a shot"},
        {
            "role": "user",
            "content": [
                PNG_PART,
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        },
    ]


def test_thinking_in_history_is_reasoning_not_words():
    """Templates of thinking models take it as reasoning_content; redacted thinking says nothing to another model."""
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}]
    turn = {"role": "assistant", "content": [*blocks, text("ok")]}
    assert chat(USER, turn, USER)["messages"][1] == {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "hm",
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 4}, {"temperature": 0.5, "top_p": 0.9, "top_k": 4}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"service_tier": "auto"}, {}),
        ({"cache_control": {"type": "ephemeral"}}, {}),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        ({"output_config": {"format": FORMAT}}, {"response_format": CHAT_FORMAT}),
        ({"output_format": FORMAT}, {"response_format": CHAT_FORMAT}),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, {}),
    ],
)
def test_every_other_parameter_has_its_counterpart_or_asks_for_nothing(fields, expected):
    """Claude Code sends all of these."""
    assert chat(**fields) == chat() | expected


def test_a_last_turn_of_the_assistants_is_continued_by_vllm():
    """Anthropic's prefill, in vLLM's words; an engine that cannot is not asked to."""
    turn = {"role": "assistant", "content": "{"}
    assert chat(USER, turn)["continue_final_message"] is True
    assert refusal(USER, turn).param == "messages[1]"


def test_a_generation_is_what_the_translated_request_comes_to():
    """One parser behind both dialects; arguments are objects for the template (case W3)."""
    turns = [USER, {"role": "assistant", "content": [USE]}, USER]
    generation = parse_messages(json.dumps(body(*turns, stop_sequences=["x"], top_k=3, stream=True)).encode())
    (prompt,) = generation.prompts
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": "é"}
    assert (generation.max_tokens, generation.stop, generation.sampling.top_k) == (8, ("x",), 3)
    assert (generation.stream, generation.n, generation.include_usage) == (True, 1, True)


def test_counting_takes_the_prompt_alone():
    """No max_tokens, and a tool choice or a prefill changes no count."""
    request = {"model": "m", "system": "s", "messages": [USER], "tools": [TOOL], "tool_choice": {"type": "any"}}
    counted = parse_count_tokens(json.dumps(request).encode())
    assert counted.prompts == parse_messages(json.dumps(body(system="s", tools=[TOOL])).encode()).prompts
    request["messages"] = [USER, {"role": "assistant", "content": "x"}]
    assert parse_count_tokens(json.dumps(request).encode()).model == "m"
    with pytest.raises(UnsupportedParameter, match="temperature"):
        parse_count_tokens(json.dumps(request | {"temperature": 1}).encode())


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"max_tokens": None}, InvalidParameter, "max_tokens"),
        ({"max_tokens": 0}, InvalidParameter, "max_tokens"),
        ({"temperature": 1.1}, InvalidParameter, "temperature"),
        ({"system": 5}, InvalidParameter, "system"),
        ({"system": [PNG]}, InvalidParameter, "system[0].type"),
        ({"stop_sequences": "x"}, InvalidParameter, "stop_sequences"),
        ({"tools": [{"name": "f"}]}, InvalidParameter, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, InvalidParameter, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, InvalidParameter, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, InvalidParameter, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, InvalidParameter, "tool_choice.name"),
        ({"tools": [TOOL, TOOL]}, InvalidParameter, "tools[1].name"),
        ({"output_config": {"format": {"type": "json_schema"}}}, InvalidParameter, "output_config.format.schema"),
        ({"mcp_servers": [{"url": "x"}]}, UnsupportedParameter, "mcp_servers"),
        ({"container": "c"}, UnsupportedParameter, "container"),
        ({"n": 2}, UnsupportedParameter, "n"),
        ({"max_completion_tokens": 2}, UnsupportedParameter, "max_completion_tokens"),
    ],
)
def test_what_is_wrong_or_not_honoured_is_named(fields, kind, param):
    """In Anthropic's words, though OpenAI's parser stands behind (case W9)."""
    error = refusal(**fields)
    assert type(error) is kind
    assert error.param == param


def test_max_tokens_is_required():
    """As it is at Anthropic."""
    with pytest.raises(InvalidParameter, match="max_tokens: required and missing"):
        parse_messages(json.dumps({"model": "m", "messages": [USER]}).encode())


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([text("a"), PNG], "messages[0].content[1]"),
        (
            [{"type": "tool_result", "tool_use_id": "t", "content": [text("a"), PNG]}],
            "messages[0].content[0].content[1]",
        ),
    ],
)
def test_an_image_is_refused_by_its_place_in_the_clients_own_request(content, param):
    """Not by its place in the translated one (case W10)."""
    error = refusal({"role": "user", "content": content}, system="s")
    assert isinstance(error, ImagesNotSupported)
    assert error.param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": [USE]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "document"}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "content": [PNG]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "tool_result"}]}, "messages[0].content[0].tool_use_id"),
    ],
)
def test_a_block_that_does_not_belong_is_named(message, param):
    """Never dropped on the way."""
    error = refusal(message, USER)
    assert isinstance(error, InvalidParameter)
    assert error.param == param
