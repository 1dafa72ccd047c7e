"""Calls that a grammar keeps an answer to, told while they are written (docs/decisions/0026)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from model_families import FAMILIES, USE, forced, model, tokenizer

from cortex_dialects.events import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta
from cortex_dialects.generation import ToolSchema, ToolUse
from cortex_neuron.protocol.frames import Output, TokenLogprobs
from cortex_neuron.text import constraint
from cortex_neuron.text.choice import Choice

EVERY = pytest.mark.parametrize("family", FAMILIES)
PARIS: dict[str, Any] = {"city": 'Päris "<b>" {x}\n]\\ 🤖', "days": 3}
FORCED = ToolUse(USE.tools, forced=True)
KEYS = ["city", "days", "a>b", 'q"', "x\ny"]
ANY = {"type": "object", "properties": {key: {} if key == "days" else {"type": "string"} for key in KEYS}}
OF_ANY = ToolUse((ToolSchema("weather", ANY, "x"), ToolSchema("clock", {}, "y")), forced=True)


def events(
    family: str,
    said: str,
    finish: str | None = "stop",
    use: ToolUse = FORCED,
    size: int = 1,
    stop: tuple[str, ...] = (),
) -> list[Event]:
    """Of an answer whose tokens come so many at a time; without `finish` it has not ended."""
    ids = tokenizer(family).encode(said, add_special_tokens=False).ids
    return of_tokens(family, ids, finish, use, size, stop)


def of_tokens(
    family: str,
    ids: list[int],
    finish: str | None = "stop",
    use: ToolUse = FORCED,
    size: int = 1,
    stop: tuple[str, ...] = (),
) -> list[Event]:
    """The same. Where calls are not forced, the engine says where the first has begun, as it does."""
    choice = Choice(0, model(family), [97], stop=stop, chat=True, num_top=None, tool_use=use)
    out: list[Event] = []
    opened = None if use.forced else first_opening(family, ids)
    for at in range(0, len(ids), size):
        if choice.finished is None:
            place = opened - at if opened is not None and at <= opened < at + size else None
            out += choice.take(Output(1, ids[at : at + size], opened_at=place))
    if choice.finished is None and finish is not None:
        out += choice.take(Output(1, [256], finish))
    return out


def first_opening(family: str, ids: list[int]) -> int | None:
    language = model(family)
    assert language.tool_format is not None
    tokens = [language.added_tokens.get(each) for each in language.tool_format.openings]
    return next((i for i, token in enumerate(ids) if token in tokens), None)


def told(out: list[Event]) -> list[tuple[str, str]]:
    """Each call's name and arguments, its pieces joined; a call's first event has its id and name, no other has."""
    calls: list[tuple[str, str]] = []
    for each in out:
        if isinstance(each, ToolCallDelta) and each.name is not None:
            assert (each.call, bool(each.id), each.arguments) == (len(calls), True, "")
            calls.append((each.name, ""))
        elif isinstance(each, ToolCallDelta):
            assert (each.call, each.id) == (len(calls) - 1, None)
            calls[-1] = (calls[-1][0], calls[-1][1] + each.arguments)
    return calls


def text_of(out: list[Event]) -> str:
    return "".join(each.text for each in out if isinstance(each, TextDelta))


@EVERY
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_call_is_told_whole_in_the_end(family: str, size: int) -> None:
    """However its tokens come; nothing of it is text."""
    out = events(family, forced(family, ("weather", PARIS)), size=size)
    ((name, arguments),) = told(out)
    assert (name, json.loads(arguments)) == ("weather", PARIS)
    assert text_of(out) == ""
    assert out[-1] == Finished(0, "tool_calls")


@EVERY
def test_name_and_arguments_do_not_wait_for_the_calls_end(family: str) -> None:
    """An agent that writes a file is seen to write: not a character is held back for longer than it may be an end."""
    whole = forced(family, ("weather", {"city": "Paris and so on", "days": 3}))
    words = {"mistral_args": "[ARGS]", "deepseek_v31": "<｜tool▁sep｜>", "deepseek_v3": "\n", "qwen_xml": ">\n"}
    behind_name = whole.index("weather") + len("weather" + words.get(family, '",'))
    assert told(events(family, whole[:behind_name], None)) == [("weather", "")]
    ((_, arguments),) = told(events(family, whole[: whole.index(" on")], None))
    assert arguments.endswith("Paris and so")


@EVERY
def test_a_call_that_max_tokens_cuts_is_told_as_far_as_it_came(family: str) -> None:
    """Its name is told: it cannot be text any more. Nor is it complete: the reason is length, never tool_calls."""
    whole = forced(family, ("weather", PARIS))
    (_, all_arguments), *_ = told(events(family, whole))
    for end in range(1, len(whole)):
        out = events(family, whole[:end], "length")
        calls = told(out)
        assert out[-1] == Finished(0, "length")
        if calls:
            assert text_of(out) == ""
            assert all_arguments.startswith(calls[0][1])
        else:
            assert text_of(out) == whole[:end]  # case W6


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "llama3_json"])
def test_a_cut_in_a_later_calls_name_is_text_behind_the_calls_before(family: str) -> None:
    """What ends the call before is nobody's, wherever the cut is in it; the reason is length (case W6)."""
    whole = forced(family, ("clock", {}), ("weather", PARIS))
    start = len(forced(family, ("clock", {}))) - 40
    for end in range(max(1, start), whole.index("weather") + 4):
        out = events(family, whole[:end], "length")
        assert out[-1] == Finished(0, "length")
        assert whole[:end].endswith(text_of(out))
        if told(out):
            assert told(out)[0][0] == "clock"
            assert "clock" not in text_of(out)


@EVERY
def test_the_first_call_ends_an_answer_that_may_hold_one(family: str) -> None:
    """parallel_tool_calls false: with its arguments' last character, however many tokens a step gives."""
    whole = forced(family, ("weather", PARIS))
    one = ToolUse(USE.tools, forced=True, parallel=False)
    for size in (1, 1000):
        out = events(family, whole, use=one, size=size)
        assert json.loads(told(out)[0][1]) == PARIS
        assert out[-1] == Finished(0, "tool_calls")
        assert text_of(out) == ""


@EVERY
def test_with_stop_strings_a_call_is_told_when_it_is_complete(family: str) -> None:
    """One within its arguments breaks it, which no grammar prevents: then it is text (case W6)."""
    whole = forced(family, ("weather", PARIS))
    assert told(events(family, whole[: whole.index("ris") + 3], None, stop=("nothing of it",))) == []
    assert json.loads(told(events(family, whole, stop=("nothing of it",)))[0][1]) == PARIS
    out = events(family, whole, stop=("ris",))
    assert told(out) == []
    assert text_of(out) == whole[: whole.index("ris")]


WORDS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('{}[]"\\/<>,:\n \t🤖é'), max_size=12)
VALUES = st.recursive(
    WORDS
    | st.integers(-(10**20), 10**20)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
TEXT_KEYS = [key for key in KEYS if key != "days"]
ARGUMENTS = st.fixed_dictionaries({}, optional={"days": VALUES, **dict.fromkeys(TEXT_KEYS, WORDS)})
CALLS = st.lists(st.just(("clock", {})) | st.tuples(st.just("weather"), ARGUMENTS), min_size=1, max_size=3)


def as_a_grammar_has_it(family: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Several in one answer; templates escape and drop what models are free to write, so markers are put in by hand."""
    one = {
        "hermes": lambda n, a: f'<tool_call>\n{{"name": "{n}", "arguments": {a}}}\n</tool_call>',
        "llama3_json": lambda n, a: f'{{"name": "{n}", "parameters": {a}}}',
        "mistral": lambda n, a: f'{{"name": "{n}", "arguments": {a}}}',
        "mistral_args": lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{a}",
        "deepseek_v3": lambda n, a: (
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{n}\n```json\n{a}\n```<｜tool▁call▁end｜>"
        ),
        "deepseek_v31": lambda n, a: f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{a}<｜tool▁call▁end｜>",
    }
    if family == "qwen_xml":
        return "\n".join(f"<tool_call>\n<function={n}>\n{_parameters(a)}</function>\n</tool_call>" for n, a in calls)
    said = [one[family](name, json.dumps(value, ensure_ascii=False)) for name, value in calls]
    match family:
        case "mistral":
            return f"[TOOL_CALLS][{', '.join(said)}]"
        case "deepseek_v3" | "deepseek_v31":
            between = "\n" if family == "deepseek_v3" else ""
            return f"<｜tool▁calls▁begin｜>{between.join(said)}<｜tool▁calls▁end｜>"
        case "hermes":
            return "\n".join(said)
        case _:
            return "".join(said)


def _parameters(arguments: dict[str, Any]) -> str:
    written = {k: v if k != "days" else json.dumps(v, ensure_ascii=False) for k, v in arguments.items()}
    return "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in written.items())


@EVERY
@settings(max_examples=60)
@given(calls=CALLS, size=st.integers(1, 30), cut=st.floats(0, 1))
def test_the_pieces_join_to_what_an_answer_in_one_piece_has(
    family: str, calls: list[tuple[str, dict[str, Any]]], size: int, cut: float
) -> None:
    """Any value, any number of calls, any split into tokens, any cut (case S9)."""
    calls = calls[:1] if family == "llama3_json" else calls
    said = as_a_grammar_has_it(family, calls)
    whole = events(family, said, use=OF_ANY, size=10**6)
    assert [(name, json.loads(arguments)) for name, arguments in told(whole)] == calls
    assert told(events(family, said, use=OF_ANY, size=size)) == told(whole)
    part = said[: int(cut * len(said))]
    streamed, at_once = (events(family, part, "length", OF_ANY, each) for each in (size, 10**6))
    assert (told(streamed), text_of(streamed)) == (told(at_once), text_of(at_once))
    for (name, arguments), (whole_name, all_arguments) in zip(told(streamed), told(whole), strict=False):
        assert name == whole_name
        assert all_arguments.startswith(arguments)


BEFORE = st.sampled_from(["", " ", "Let me see.\n\n", "a <tool_", "[TOOL", "<｜tool"])
STARTED = [each for each in FAMILIES if each not in ("llama3_json", "qwen_xml")]  # calls that begin with a token


@pytest.mark.parametrize("family", STARTED)
def test_a_call_that_nobody_has_forced_is_told_as_it_is_written(family: str) -> None:
    """tool_choice auto: text before it is text, and from the token that begins it on the answer is bound."""
    whole = "Let me see.\n\n" + forced(family, ("weather", {"city": "Paris and so on", "days": 3}))
    out = events(family, whole[: whole.index(" on")], None, USE)
    ((name, arguments),) = told(out)
    assert (name, arguments.endswith("Paris and so")) == ("weather", True)
    assert text_of(out) == "Let me see."
    assert told(events(family, whole, None, USE, stop=("nothing of it",)))[0][0] == "weather"
    assert told(events(family, whole[: whole.index(" on")], None, USE, stop=("nothing of it",))) == []


@pytest.mark.parametrize("family", STARTED)
@settings(max_examples=40)
@given(before=BEFORE, calls=CALLS, size=st.integers(1, 30), cut=st.floats(0, 1))
def test_so_are_calls_behind_any_text(
    family: str, before: str, calls: list[tuple[str, dict[str, Any]]], size: int, cut: float
) -> None:
    """Any value, number of calls, split into tokens and cut: the pieces join to one answer (case S9)."""
    use = ToolUse(OF_ANY.tools)
    said = before + as_a_grammar_has_it(family, calls)
    whole = events(family, said, use=use, size=10**6)
    assert [(name, json.loads(arguments)) for name, arguments in told(whole)] == calls
    assert text_of(whole) == before.rstrip()
    part = said[: int(cut * len(said))]
    streamed, at_once = (events(family, part, "length", use, each) for each in (size, 10**6))
    assert (told(streamed), text_of(streamed)) == (told(at_once), text_of(at_once))
    for (name, arguments), (whole_name, all_arguments) in zip(told(streamed), told(whole), strict=False):
        assert name == whole_name
        assert all_arguments.startswith(arguments)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_marker_that_is_spelt_binds_nothing(size: int) -> None:
    """Only the token does. What was spelt before it is text, unless it is a whole call; that is one, as ever."""
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    token = tokenizer("hermes").encode(call, add_special_tokens=False).ids
    half = list(b'<tool_call>{"name": "cl')
    for said, text, number in (
        (half, '<tool_call>{"name": "cl', 0),
        ([*half, *token], '<tool_call>{"name": "cl', 1),
        ([*call.encode(), *token], "", 2),
        (list(b"<tool_call>{}</tool_call>"), "<tool_call>{}</tool_call>", 0),
    ):
        out = of_tokens("hermes", said, use=USE, size=size)
        assert (text_of(out), told(out)) == (text, [("clock", "{}")] * number)


@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_read_as_a_thought_tells_no_call(size: int) -> None:
    """Also where its beginning is spelt, and the engine took it for text (case S4)."""
    call = tokenizer("hermes").encode('<tool_call>\n{"name": "clock", "arguments": {}}', add_special_tokens=False).ids
    spelt = b'</think>x <tool_call>{"name": "clock", "arguments": oops'
    out = of_tokens("hermes", [*b"<think>hm ", *call, *spelt], use=USE, size=size)
    assert told(out) == []
    assert text_of(out) == 'x <tool_call>{"name": "clock", "arguments": oops'
    assert "".join(each.text for each in out if isinstance(each, ReasoningDelta)).startswith("hm <tool_call>")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_log_probabilities_are_told_with_their_tokens(size: int) -> None:
    """Each once and in order, however many a step gives; those of a call's tokens, too."""
    ids = tokenizer("hermes").encode(forced("hermes", ("clock", {})), add_special_tokens=False).ids
    choice = Choice(0, model("hermes"), [97], stop=(), chat=True, num_top=0, tool_use=FORCED)
    out: list[Event] = []
    for at in range(0, len(ids), size):
        batch = ids[at : at + size]
        out += choice.take(Output(1, batch, logprobs=[TokenLogprobs(-float(token), [], []) for token in batch]))
    texts = [each for each in out if isinstance(each, TextDelta)]
    assert [lp.logprob for each in texts for lp in each.logprobs] == [-float(token) for token in ids]
    assert all(len(each.logprobs) == 1 for each in texts)


SHORT = {"type": "string", "maxLength": 6}
NESTED = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", 'Zü"rich']},
        "days": {"type": "array", "items": {"anyOf": [SHORT, {"type": "integer"}]}, "maxItems": 3},
        "deep": {"type": "object", "properties": {"on": SHORT}, "required": ["on"], "additionalProperties": False},
    },
    "required": ["city"],
    "additionalProperties": False,
}
OF_NESTED = ToolUse((ToolSchema("wea ther", NESTED, "x"), ToolSchema('cl"ock', {}, "y")), forced=True)


def walk(family: str, seed: int, most: int) -> tuple[list[int], bool]:
    """Tokens that the grammar allows, drawn from them with no model at all; and whether the answer has ended."""
    language, rng = model(family), random.Random(seed)
    engine = LLTokenizer(language.tokenizer.to_str(), n_vocab=language.vocab_size, eos_token=[256])
    binding = constraint.binding(language, [104], None, OF_NESTED, chat=True)
    assert binding is not None
    matcher = LLMatcher(engine, binding.grammar)
    tokens: list[int] = []
    bits = allocate_token_bitmask(1, language.vocab_size)
    while len(tokens) < most and not matcher.is_stopped():
        fill_next_token_bitmask(matcher, bits)
        allowed = [i for i in range(language.vocab_size) if bits[0, i // 32] >> (i % 32) & 1]
        ends = [i for i in allowed if i in (256, ord('"'), ord("}"), ord("]"))]
        tokens.append(rng.choice(ends if ends and rng.random() < 0.5 else allowed))
        assert matcher.consume_token(tokens[-1])
    return tokens, bool(matcher.is_stopped())


@EVERY
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_grammar_allows_is_read_as_calls(family: str, seed: int) -> None:
    """Words, spaces and names that no template has: none of it is text, and all arguments are JSON of an object."""
    tokens, ended = walk(family, seed, 600)
    choice = Choice(0, model(family), [104], stop=(), chat=True, num_top=None, tool_use=OF_NESTED)
    out = [each for token in tokens[:-1] for each in choice.take(Output(1, [token]))]
    out += choice.take(Output(1, tokens[-1:], "stop" if ended else None))
    calls = told(out)
    assert calls
    assert text_of(out) == ""
    for name, arguments in calls if ended else calls[:-1]:
        assert name in ("wea ther", 'cl"ock')
        assert isinstance(json.loads(arguments), dict)
    assert (choice.finished == Finished(0, "tool_calls")) == ended
