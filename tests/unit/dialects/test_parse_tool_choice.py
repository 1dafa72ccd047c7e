"""Chat's tool_choice where it is no word: which tools the model is shown, and which it may call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import Generation
from cortex_dialects.openai import parse_chat

TOOLS = [{"type": "function", "function": {"name": name}, "kept": name} for name in ("f", "g", "h")]


def chat(**fields: Any) -> Generation:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": TOOLS, **fields}
    return parse_chat(json.dumps(body).encode())


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_the_only_ones_that_there_are(mode):
    """Shown in the request's own order and words; each schema keeps the place where the client gave it."""
    asked = chat(tool_choice=allowed("h", "f", mode=mode))
    assert asked.prompts[0].tools == (TOOLS[0], TOOLS[2])
    assert [tool.place for tool in asked.tool_use.tools] == [f"tools[{i}].function.parameters" for i in (0, 2)]
    assert asked.tool_use.forced is (mode == "required")
    assert asked.tool_use.parallel


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_that_are_all_of_them_change_nothing(mode):
    """But the word for whether one is to be called."""
    assert chat(tool_choice=allowed("f", "g", "h", mode=mode)) == chat(tool_choice=mode)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (allowed("f", "x"), "tool_choice.allowed_tools.tools[1].function.name"),
        (allowed("f", mode="none"), "tool_choice.allowed_tools.mode"),
        (allowed(), "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "custom", "custom": {"name": "f"}}, "tool_choice.type"),
        (["f"], "tool_choice"),
    ],
)
def test_a_choice_that_cannot_be_kept_to_is_named(choice, param):
    """By its place, such as the one name of several that no tool has."""
    with pytest.raises(InvalidParameter) as caught:
        chat(tool_choice=choice)
    assert caught.value.param == param
