"""The grammar of an answer: what it allows, and the words for what no grammar can say."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from model_families import CLOCK, FAMILIES, USE, WEATHER, forced, model, written
from scripted_model import byte_tokenizer
from tokenizers import Tokenizer

from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import AnswerFormat, ToolSchema, ToolUse
from cortex_neuron.text import constraint
from cortex_neuron.text.constraint import Binding
from cortex_neuron.text.text_model import TextModel

EOS = 256
FORCED = ToolUse(USE.tools, forced=True)
EVERY = pytest.mark.parametrize("family", FAMILIES)


def matcher(language: TextModel, grammar: str | None) -> LLMatcher:
    assert grammar is not None
    tokenizer = LLTokenizer(language.tokenizer.to_str(), n_vocab=language.vocab_size, eos_token=[EOS])
    found = LLMatcher(tokenizer, grammar)
    assert not found.is_error(), found.get_error()
    return found


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def allows(language: TextModel, grammar: str | None, text: str) -> bool:
    """Whether the whole text may be an answer, in the tokens that a model would say it in."""
    tokens = ids(language.tokenizer, text)
    found = matcher(language, grammar)
    return bool(found.validate_tokens(tokens) == len(tokens) and found.consume_tokens(tokens) and found.is_accepting())


def of(family: str, form: AnswerFormat | None = None, use: ToolUse | None = None, prompt: str = "hi") -> str | None:
    language = model(family)
    found = constraint.binding(language, ids(language.tokenizer, prompt), form, use, chat=True)
    assert found is None or found.opening is None
    return None if found is None else found.grammar


def opened(family: str, use: ToolUse, prompt: str = "hi") -> Binding | None:
    """What binds an answer from its first call on."""
    language = model(family)
    found = constraint.binding(language, ids(language.tokenizer, prompt), None, use, chat=True)
    assert found is None or found.opening is not None
    return found


def allows_from_opening(family: str, found: Binding | None, text: str) -> bool:
    """Whether an answer may be this text, which is free up to its first call."""
    assert found is not None
    assert found.opening is not None
    tokens = ids(model(family).tokenizer, text)
    start = next((i for i, token in enumerate(tokens) if token in found.opening.tokens), None)
    if start is None:
        return True
    rest = tokens[start:]
    read = matcher(model(family), found.grammar)
    return bool(read.validate_tokens(rest) == len(rest) and read.consume_tokens(rest) and read.is_accepting())


@EVERY
def test_a_forced_call_is_written_as_the_template_writes_it(family: str) -> None:
    """So that the model is at home in it, and what it says is read as a call."""
    said = forced(family, ("weather", {"city": 'Päris "x"', "days": 3}))
    assert allows(model(family), of(family, use=FORCED), said)


@pytest.mark.parametrize("prompt", ["hi", "hi<think>\n"])
def test_a_thoughts_end_is_its_token_and_never_text(prompt: str) -> None:
    """Else what follows would be read as the answer, and be free."""
    language = model("hermes")
    grammar, call = of("hermes", use=FORCED, prompt=prompt), written("hermes", ("clock", {}))
    begun = [] if "<think>" in prompt else ids(language.tokenizer, "<think>")
    end, spelt = ids(language.tokenizer, "</think>"), list(b"</think>")
    for thought, good in ((b"hm </thin", True), (b"hm </think> then", False)):
        tokens = [*begun, *thought, *end, *ids(language.tokenizer, call)]
        assert (matcher(language, grammar).validate_tokens(tokens) == len(tokens)) == good
    assert matcher(language, grammar).validate_tokens([*begun, *spelt]) < len(begun) + len(spelt)


@EVERY
@pytest.mark.parametrize("arguments", [{"city": "x"}, {"city": "x", "days": "three"}, {"city": "x", "days": 1, "y": 2}])
def test_a_forced_call_keeps_to_the_tools_schema(family: str, arguments: dict[str, Any]) -> None:
    """A missing argument, one of the wrong type, and one too many."""
    assert not allows(model(family), of(family, use=FORCED), forced(family, ("weather", arguments)))


@EVERY
def test_a_forced_call_is_nothing_else(family: str) -> None:
    """No text, no end before it, no tool that there is not."""
    grammar = of(family, use=FORCED)
    assert not allows(model(family), grammar, "I would rather not.")
    assert not allows(model(family), grammar, "")
    assert not allows(model(family), grammar, written(family, ("clocks", {})))


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "llama3_json"])
def test_several_forced_calls_only_where_they_may_be(family: str) -> None:
    """parallel_tool_calls."""
    said = forced(family, ("clock", {}), ("clock", {}))
    assert allows(model(family), of(family, use=FORCED), said)
    assert not allows(model(family), of(family, use=ToolUse(USE.tools, forced=True, parallel=False)), said)


STARTED = [each for each in FAMILIES if each not in ("llama3_json", "qwen_xml")]  # calls that begin with a token


@pytest.mark.parametrize("family", STARTED)
def test_a_call_that_has_begun_cannot_break(family: str) -> None:
    """tool_choice auto: text is free; from the token that begins a call on it is one, of a tool that there is."""
    found, any_arguments = opened(family, USE), {"city": ["what no schema says"], "x": {"y": None}}
    said = forced(family, ("weather", any_arguments), ("clock", {}))
    assert allows_from_opening(family, found, said)
    assert allows_from_opening(family, found, f"Let me see. {said}")
    assert allows_from_opening(family, found, "No call.")
    for broken in (said.replace('"city"', "city"), said.replace("clock", "clocks"), said[:-1], said + " and so on"):
        assert not allows_from_opening(family, found, broken)
    assert found is not None
    assert found.opening is not None
    assert not found.opening.required


def test_where_nothing_tells_that_a_call_begins_any_answer_will_do() -> None:
    """Llama's bare JSON, a marker that is no token of its own, and Qwen's XML, whose rules name all arguments."""
    assert opened("llama3_json", USE) is None
    assert opened("qwen_xml", USE) is None
    spelt = TextModel(byte_tokenizer(), 300, tool_parser="hermes")
    assert constraint.binding(spelt, [104], None, USE, chat=True) is None
    assert of("hermes") is None


def test_a_call_within_a_thought_binds_nothing() -> None:
    """The engine is told which tokens begin and end one, and whether the prompt has begun it."""
    for prompt, in_thought in (("hi", False), ("hi<think>\n", True), ("hi<think></think>", False)):
        found = opened("hermes", USE, prompt)
        assert found is not None
        assert found.opening is not None
        assert found.opening.in_thought == in_thought
        assert [*found.opening.thought] == ids(model("hermes").tokenizer, "<think></think>")  # type: ignore[misc]


def test_a_strict_tool_is_kept_to_its_schema_without_being_forced() -> None:
    """Another tool's arguments are any object. Without the grammar there is no answer."""
    strict, free = ToolSchema("weather", WEATHER, "w", strict=True), ToolSchema("clock", CLOCK, "c")
    for family in ("hermes", "qwen_xml", "mistral_args", "deepseek_v31"):
        tools = (strict,) if family == "qwen_xml" else (strict, free)
        found = opened(family, ToolUse(tools))
        good = written(family, ("weather", {"city": "x", "days": 3}), content="Let me see.")
        assert allows_from_opening(family, found, good)
        assert not allows_from_opening(family, found, written(family, ("weather", {"city": "x"})))
        if family != "qwen_xml":
            assert allows_from_opening(family, found, written(family, ("clock", {"a": [1]})))
        assert found is not None
        assert found.opening is not None
        assert found.opening.required
    assert opened("qwen_xml", ToolUse((strict, free))) is None  # it could not leave the other's arguments free
    assert opened("llama3_json", ToolUse((strict, free))) is None


SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
JSON = AnswerFormat("json_schema", SCHEMA, "response_format.json_schema.schema")


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (JSON, '{"a": "x"}', '{"a": "z"}'),
        (JSON, '{\n  "a": "y"\n}', "{}"),
        (AnswerFormat("json_schema", {"type": "object"}, "x"), '{"any": [1, null]}', "[1]"),
        (AnswerFormat("regex", r"[0-9]{2}/[a-z]+", "x"), "12/ab", "1/ab"),
        (AnswerFormat("choice", ("yes", 'n"o🤖'), "x"), 'n"o🤖', "no"),
        (AnswerFormat("grammar", 'start: "a" b\nb: /[0-9]/', "x"), "a7", "ab"),
        (AnswerFormat("grammar", 'root ::= "a" [0-9]', "x"), "a7", "ab"),
        (AnswerFormat("json_schema", {"oneOf": [{"type": "integer"}, {"type": "null"}]}, "x"), "null", "true"),
    ],
)
def test_an_answer_has_the_form_that_was_asked_for(form: AnswerFormat, good: str, bad: str) -> None:
    """Each kind, in a chat and in a completion."""
    language = model("hermes")
    for chat in (True, False):
        found = constraint.binding(language, (97,), form, None, chat=chat)
        assert found is not None
        grammar = found.grammar
        assert allows(language, grammar, good)
        assert not allows(language, grammar, bad)
        assert not allows(language, grammar, "")


def test_white_space_in_json_has_an_end() -> None:
    """A model that has lost its way must not fill the answer with it."""
    assert allows(model("hermes"), of("hermes", JSON), '{"a":' + " " * 40 + '"x"}')
    assert not allows(model("hermes"), of("hermes", JSON), '{"a":' + " " * 41 + '"x"}')


def test_with_a_form_and_tools_an_answer_is_either() -> None:
    """tool_choice auto beside response_format."""
    grammar = of("hermes", JSON, USE)
    assert allows(model("hermes"), grammar, '{"a": "x"}')
    assert allows(model("hermes"), grammar, written("hermes", ("clock", {})))
    assert not allows(model("hermes"), grammar, "text")


@pytest.mark.parametrize(
    ("prompt", "good", "bad"),
    [
        ("hi", ['{"a": "x"}', '<think>hm {</think>\n\n{"a": "x"}'], ['hm</think>{"a": "x"}']),
        ("hi<think>\n", ['hm {</think>\n{"a": "x"}'], ['{"a": "x"}']),
        ("hi<think></think>\n\n", ['{"a": "x"}'], ['<think>hm</think>{"a": "x"}']),
    ],
)
def test_thoughts_come_before_the_form_and_are_free(prompt: str, good: list[str], bad: list[str]) -> None:
    """Where the template has begun them they must end; where it has left them out there are none."""
    grammar = of("hermes", JSON, prompt=prompt)
    assert all(allows(model("hermes"), grammar, each) for each in good)
    assert not any(allows(model("hermes"), grammar, each) for each in bad)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (AnswerFormat("json_schema", {"not": {}}, "response_format.json_schema.schema"), "not"),
        (AnswerFormat("json_schema", {"type": "strong"}, "guided_json"), "strong"),
        (AnswerFormat("json_schema", {"type": "string", "format": "moon"}, "guided_json"), "moon"),
        (AnswerFormat("json_schema", {"$ref": "http://x/y"}, "guided_json"), "http://x/y"),
        (AnswerFormat("json_schema", {"type": "string", "pattern": "(?=a)"}, "guided_json"), "regex"),
        (AnswerFormat("regex", "(", "guided_regex"), "regex"),
        (AnswerFormat("grammar", 'start: "a" | nothing', "guided_grammar"), "nothing"),
        (AnswerFormat("grammar", "root ::= (((", "guided_grammar"), "Expected"),
        (AnswerFormat("grammar", "no grammar", "guided_grammar"), ""),
        (AnswerFormat("grammar", 'a ::= "x"', "guided_grammar"), "root"),
        (AnswerFormat("grammar", "start: <|im_end|>", "guided_grammar"), "special tokens"),
        (AnswerFormat("grammar", "start: <[7]>", "guided_grammar"), "special tokens"),
        (AnswerFormat("choice", ("x" * 1_000_001,), "guided_choice"), "at most 1000000"),
        (AnswerFormat("grammar", "root ::= " + "(" * 3000, "guided_grammar"), "recursion"),
    ],
)
def test_a_form_that_no_grammar_can_keep_to_is_named(form: AnswerFormat, words: str) -> None:
    """Which parameter, and what of it (case W9)."""
    with pytest.raises(InvalidParameter) as refused:
        of("hermes", form)
    assert refused.value.param == form.place
    assert refused.value.message.startswith(f"{form.place}: ")
    assert words in refused.value.message
    assert len(refused.value.message) < 500


@EVERY
def test_a_tool_whose_schema_cannot_be_kept_to_is_named(family: str) -> None:
    """Only where its call is forced."""
    bad = ToolSchema("bad", {"type": "object", "properties": {"a": {"not": {}}}}, "tools[1].function.parameters")
    tools = (ToolSchema("clock", CLOCK, "tools[0].function.parameters"), bad)
    with pytest.raises(InvalidParameter, match="not") as refused:
        of(family, use=ToolUse(tools, forced=True))
    assert refused.value.param == "tools[1].function.parameters"
    assert opened(family, ToolUse(tools)) is None or family in STARTED


def test_a_schema_cannot_break_out_of_its_rule() -> None:
    """Names and values of a client's stand in a grammar: as data."""
    name = 'x"\nstart: "y'
    odd = ToolUse((ToolSchema(name, {"type": "object", "properties": {name: {"const": name}}}, "t"),), forced=True)
    for family in FAMILIES:
        grammar = of(family, use=odd)
        assert not allows(model(family), grammar, "y")
    choice = of("hermes", AnswerFormat("choice", (name,), "x"))
    assert allows(model("hermes"), choice, name)
    assert json.dumps(name) in str(choice)


KEYS = st.sampled_from(
    ["type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "pattern",
     "minimum", "maximum", "minLength", "maxItems", "additionalProperties", "format", "not", "a", "x-guidance"]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["object", "string", "integer", "array", "#", "#/$defs/a", "date-time", "[a-z]+", "(", "a{9999}"])
)
SCHEMAS = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)
TEXTS = st.text(st.sampled_from("ab:|\"'/()[]{}*+?<>%@\n \\.start:root=_") | st.characters(exclude_categories=["Cs"]))


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, words=TEXTS)
def test_any_form_is_a_grammar_or_a_400(schema: dict[str, Any], words: str) -> None:
    """Whatever a client sends, as a form or as a tool's schema; nothing else is raised."""
    tool = ToolSchema(words or "f", schema, "tools[0].function.parameters")
    asked: list[tuple[AnswerFormat | None, ToolUse | None]] = [
        (AnswerFormat("json_schema", schema, "response_format"), None),
        (AnswerFormat("regex", words or "a", "guided_regex"), None),
        (AnswerFormat("grammar", words or "a", "guided_grammar"), None),
        (AnswerFormat("choice", (words or "a",), "guided_choice"), ToolUse((tool,))),
        (None, ToolUse((tool,), forced=True)),
    ]
    for form, use in asked:
        for family in ("hermes", "qwen_xml"):
            with contextlib.suppress(InvalidParameter):
                assert of(family, form, use)
