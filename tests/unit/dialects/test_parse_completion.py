"""OpenAI's text completions: the four forms of a prompt and the parameters of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_contracts.wire.errors import InvalidParameter, UnsupportedParameter
from cortex_dialects.generation import Generation, TextPrompt, TokenPrompt
from cortex_dialects.openai import parse_completion


def completion(prompt: Any = "hi", **fields: Any) -> Generation:
    return parse_completion(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", (TextPrompt("hi"),)),
        (["a", "b"], (TextPrompt("a"), TextPrompt("b"))),
        ([1, 2], (TokenPrompt((1, 2)),)),
        ([[1, 2], [3]], (TokenPrompt((1, 2)), TokenPrompt((3,)))),
    ],
)
def test_a_prompt_may_be_text_or_tokens_one_or_many(prompt, expected):
    """Choices are counted over prompts, then over n."""
    generation = completion(prompt, n=2)
    assert generation.prompts == expected
    assert generation.num_choices == 2 * len(expected)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ([[]], "prompt[0]"),
        ([1, "a"], "prompt[1]"),
        (["a", 1], "prompt[1]"),
        ([True], "prompt"),
        ([-1], "prompt[0]"),
        ([2**40], "prompt[0]"),
        ([[1], 2], "prompt[1]"),
        ({"a": 1}, "prompt"),
        (None, "prompt"),
    ],
)
def test_any_other_prompt_is_refused(prompt, param):
    """With the path of the element that does not fit."""
    with pytest.raises(InvalidParameter) as caught:
        completion(prompt)
    assert caught.value.param == param


def test_echo_and_logprobs_are_honoured():
    """Here logprobs is a number: 0 is the chosen token's alone."""
    generation = completion(echo=True, logprobs=0, max_tokens=1)
    assert (generation.echo, generation.logprobs) == (True, 0)
    assert completion(logprobs=5).logprobs == 5
    assert completion(logprobs=None).logprobs is None


@pytest.mark.parametrize(("name", "value"), [("best_of", 3), ("suffix", "end"), ("messages", []), ("tools", [])])
def test_what_completions_do_not_have_is_named(name, value):
    """Never silently ignored (case W9)."""
    with pytest.raises(UnsupportedParameter) as caught:
        completion(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(("name", "value"), [("best_of", 1), ("suffix", None), ("suffix", ""), ("user", None)])
def test_what_asks_for_nothing_is_accepted(name, value):
    """SDKs send defaults."""
    assert completion(**{name: value}) == completion()
