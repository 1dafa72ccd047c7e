"""Calls told from text, for each family of models, by what its own chat template writes (case W6)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_families import FAMILIES, TOOLS, USE, arguments, call_turn, model, template, tokenizer, written

from cortex_dialects.events import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta
from cortex_dialects.generation import ChatPrompt, ToolUse
from cortex_neuron.protocol.frames import Output
from cortex_neuron.text.choice import Choice
from cortex_neuron.text.tool_calls import known
from cortex_neuron.text.tool_calls.split import ToolSplit
from cortex_neuron.text.tool_calls.tool_format import Call

EVERY = pytest.mark.parametrize("family", FAMILIES)
PARIS: dict[str, Any] = {"city": 'Päris "<b>" {x} 🤖', "days": 3}
SEVERAL = [each for each in FAMILIES if each != "llama3_json"]  # that may call several tools at once


def split(family: str, pieces: list[str], use: ToolUse = USE) -> list[str | Call]:
    """What a splitter makes of the pieces, neighbouring texts joined."""
    splitter = ToolSplit(known.by_name(family), use)  # type: ignore[arg-type]
    out: list[str | Call] = []
    for each in [part for piece in pieces for part in splitter.push(piece)] + splitter.end():
        if out and isinstance(each, str) and isinstance(out[-1], str):
            out[-1] += each
        else:
            out.append(each)
    return out


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@EVERY
def test_a_family_is_known_by_its_template(family: str) -> None:
    """Nobody need say it in the inventory."""
    found = known.found(template(family))
    assert found is not None
    assert found.name == family
    assert known.found("{{ messages }}") is None


@EVERY
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_what_the_template_writes_for_a_call_reads_back_as_the_call(family: str, size: int) -> None:
    """However it is cut, with every kind of character in it; nothing of it is text."""
    said = cut(written(family, ("weather", PARIS)), size)
    (call,) = split(family, said)
    assert isinstance(call, Call)
    assert (call.name, arguments(call)) == ("weather", PARIS)


@pytest.mark.parametrize("family", SEVERAL)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_several_calls_come_in_their_order(family: str, size: int) -> None:
    """Also one without arguments; what is written between them is nobody's."""
    said = written(family, ("weather", PARIS), ("clock", {}), ("weather", PARIS))
    calls = split(family, cut(said, size))
    assert [(call.name, arguments(call)) for call in calls if isinstance(call, Call)] == [
        ("weather", PARIS),
        ("clock", {}),
        ("weather", PARIS),
    ]
    assert len(calls) == 3


@pytest.mark.parametrize("family", ["hermes", "qwen_xml", "mistral_args", "deepseek_v3", "deepseek_v31"])
@pytest.mark.parametrize("size", [1, 6, 1000])
def test_text_before_calls_is_text_without_the_white_space_between(family: str, size: int) -> None:
    """As OpenAI's and Anthropic's answers have it."""
    said = written(family, ("weather", PARIS), content="Let me see.\n\n")
    text, call = split(family, cut(said, size))
    assert text == "Let me see."
    assert isinstance(call, Call)


def test_several_calls_of_llama_are_separated_by_semicolons() -> None:
    """As its models write them, tagged or not."""
    one = '{"name": "clock", "parameters": {}}'
    for said in (f"{one}; {one}", f"<|python_tag|>{one};{one}"):
        for size in (1, 1000):
            assert [call.name for call in split("llama3_json", cut(said, size)) if isinstance(call, Call)] == [
                "clock"
            ] * 2


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ada", "parameters": {"a": 1}}',
        '{"a": {"b": "}"}} and so on',
        "{ not json",
        'x {"name": "clock"}',
        "{}",
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_json_that_is_no_call_of_llamas_is_an_answer(answer: str, size: int) -> None:
    """A bare object is a call only where it names a tool and stands first."""
    assert split("llama3_json", cut(answer, size)) == [answer]


@EVERY
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_call_that_was_cut_stays_text(family: str, size: int) -> None:
    """Word for word, wherever the cut is (case W6)."""
    whole = written(family, ("weather", {"city": "Paris", "days": 3}))
    for end in range(1, len(whole)):
        out = split(family, cut(whole[:end], size))
        if any(isinstance(each, Call) for each in out):  # all but what follows a call was there
            assert known.by_name(family).closers  # type: ignore[arg-type]
        else:
            assert out == [whole[:end]]


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("hermes", '<tool_call>\n{"name": "clock", "arguments": [1]}\n</tool_call> then'),
        ("hermes", "<tool_call>nothing</tool_call>"),
        ("hermes", '<tool_call>{"name": "clock", "arguments": {}} and no end'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "clock", "arguments": {,}}</tool_call>'),
        ("qwen_xml", "<tool_call>\n{}</tool_call>"),
        ("mistral", "[TOOL_CALLS][1, 2] x"),
        ("mistral", "[TOOL_CALLS][] x"),
        ("mistral_args", '[TOOL_CALLS]two words{"a": 1} x'),
        ("deepseek_v31", '<｜tool▁calls▁begin｜>clock<｜tool▁sep｜>{"a": 1}'),
        ("deepseek_v3", '<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n```json\n{"a": 1}\n```\nx'),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_what_cannot_be_parsed_stays_text(family: str, said: str, size: int) -> None:
    """Markers and all: nothing is lost, nothing is guessed (case W6)."""
    assert split(family, cut(said, size)) == [said]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_call_behind_one_that_cannot_be_parsed_is_a_call(size: int) -> None:
    """A slip does not cost what follows it."""
    out = split("hermes", cut('<tool_call>oops</tool_call>\n<tool_call>{"name": "clock"}</tool_call>', size))
    assert out[0] == "<tool_call>oops</tool_call>"
    assert isinstance(out[1], Call)


def test_a_marker_within_an_argument_is_the_arguments() -> None:
    """An agent may well edit a parser of calls."""
    code = {"city": "</tool_call>\n<tool_call>{", "days": 1}
    (call,) = split("hermes", [written("hermes", ("weather", code))])
    assert isinstance(call, Call)
    assert arguments(call) == code


def test_values_of_qwens_xml_are_what_the_schema_says() -> None:
    """Text stays text, even if it looks like a number; lines within it are kept."""
    said = written("qwen_xml", ("weather", {"city": "75\n\n  001", "days": 7}))
    (call,) = split("qwen_xml", [said])
    assert isinstance(call, Call)
    assert arguments(call) == {"city": "75\n\n  001", "days": 7}


@EVERY
@given(text=st.text(alphabet='a <>/{}"[]:|;\n', max_size=40), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_text_without_calls_comes_out_as_it_went_in(family: str, text: str, sizes: list[int]) -> None:
    """Held back or not, however it is cut."""
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    assert "".join(str(each) for each in split(family, pieces)) == text


@EVERY
def test_history_with_calls_and_results_reaches_the_template(family: str) -> None:
    """Arguments as objects, the result as its own turn (cases W1, W3, W5)."""
    messages = (
        {"role": "user", "content": "hi"},
        call_turn(("weather", {"city": "Oslo", "days": 2})),
        {"role": "tool", "content": "rainy", "tool_call_id": "abcdefgh0"},
        {"role": "user", "content": "and now?"},
    )
    text = model(family).render(ChatPrompt(messages, TOOLS))
    assert "rainy" in text
    assert "Oslo" in text
    assert text.count('"weather"') + text.count("<name>weather") + text.count("weather<") >= 1


# ---- in a choice


def events(family: str, said: str, finish: str = "stop", use: ToolUse | None = USE, size: int = 1) -> list[Event]:
    """A choice's events for an answer whose tokens come so many at a time."""
    ids = tokenizer(family).encode(said, add_special_tokens=False).ids
    choice = Choice(0, model(family), [97], stop=(), chat=True, num_top=None, tool_use=use)
    batches = [ids[at : at + size] for at in range(0, len(ids), size)]
    out: list[Event] = []
    for batch in batches:
        if choice.finished is None:
            out += choice.take(Output(1, batch))
    if choice.finished is None:
        out += choice.take(Output(1, [256], finish))
    return out


def text_of(out: list[Event]) -> str:
    return "".join(each.text for each in out if isinstance(each, TextDelta))


@EVERY
@pytest.mark.parametrize("size", [1, 50])
def test_a_choice_tells_its_calls_and_says_why_it_ended(family: str, size: int) -> None:
    """Also where the markers are special tokens, which have no text else."""
    out = events(family, written(family, ("weather", PARIS)), size=size)
    start, rest = [each for each in out if isinstance(each, ToolCallDelta)]
    assert (start.call, start.name, start.arguments, rest.id) == (0, "weather", "", None)
    assert json.loads(rest.arguments) == PARIS
    assert text_of(out) == ""
    assert out[-1] == Finished(0, "tool_calls")


@EVERY
def test_without_tools_the_same_words_are_text(family: str) -> None:
    """tool_choice none, or no tools: nothing is looked for."""
    out = events(family, written(family, ("clock", {})), use=None)
    assert text_of(out).rstrip("\n") == written(family, ("clock", {}))
    assert out[-1] == Finished(0, "stop")


@EVERY
def test_a_cut_call_is_text_and_the_reason_is_length(family: str) -> None:
    """Never half a call (case W6)."""
    said = written(family, ("weather", {"city": "Paris", "days": 3}))
    part = said[: said.index("Paris")]
    out = events(family, part, "length")
    assert not [each for each in out if isinstance(each, ToolCallDelta)]
    assert text_of(out) == part
    assert out[-1] == Finished(0, "length")


@pytest.mark.parametrize("family", SEVERAL)
@pytest.mark.parametrize("size", [1, 500])
def test_the_first_call_ends_an_answer_that_may_hold_one(family: str, size: int) -> None:
    """parallel_tool_calls false: what the model goes on to say is not waited for, nor counted where it has come."""
    said = written(family, ("weather", PARIS), ("clock", {}))
    out, one_by_one = (events(family, said, use=ToolUse(USE.tools, parallel=False), size=each) for each in (size, 1))
    assert [each.name for each in out if isinstance(each, ToolCallDelta) and each.name] == ["weather"]
    assert out[-1] == Finished(0, "tool_calls")
    told, expected = (
        [token for each in some if isinstance(each, TextDelta) for token in each.token_ids]
        for some in (out, one_by_one)
    )
    assert told == expected


PIECES = st.sampled_from(
    ["Let me see. ", "\n\n", "{", "}", "[", "🤖", "<", "CALL", "CALL", "BROKEN", "CUT", "<think>", "</think>", ";", "x"]
)


def gist(out: list[Event]) -> dict[str, Any]:
    """What a client is told, but for ids."""
    calls = [each for each in out if isinstance(each, ToolCallDelta)]
    return {
        "text": text_of(out),
        "thoughts": "".join(each.text for each in out if isinstance(each, ReasoningDelta)),
        "calls": [(each.call, each.name, each.arguments) for each in calls],
        "end": out[-1],
    }


@EVERY
@settings(max_examples=60)
@given(pieces=st.lists(PIECES, max_size=8), size=st.integers(1, 40), finish=st.sampled_from(["stop", "length"]))
def test_how_many_tokens_a_step_gives_changes_nothing(family: str, pieces: list[str], size: int, finish: str) -> None:
    """With calls, broken ones and cut ones in any order: a request that is not streamed gets no other (case S9)."""
    call = written(family, ("weather", {"city": "Paris", "days": 3}))
    known_pieces = {"CALL": call, "BROKEN": call.replace("Paris", '"'), "CUT": call[: len(call) // 2]}
    said = "".join(known_pieces.get(each, each) for each in pieces)
    assert gist(events(family, said, finish, size=size)) == gist(events(family, said, finish))


def test_ids_are_such_as_the_template_takes_back() -> None:
    """Mistral's refuses any but nine letters or digits; each call has its own."""
    for family in ("mistral", "hermes"):
        out = events(family, written(family, ("clock", {}), ("clock", {})))
        ids = [each.id for each in out if isinstance(each, ToolCallDelta) and each.id]
        assert len(set(ids)) == 2
        assert all(each.isalnum() and len(each) == 9 for each in ids) == (family == "mistral")


def test_thoughts_before_a_call_are_thoughts() -> None:
    """And a call within a thought is none (case S4)."""
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    out = events("hermes", f"<think>\nmaybe {call}</think>\n\n{call}")
    assert sum(isinstance(each, ToolCallDelta) and each.name is not None for each in out) == 1
    assert text_of(out) == ""
