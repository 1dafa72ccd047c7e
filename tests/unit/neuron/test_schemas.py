"""How a client's JSON Schema is said to llguidance, and what of it is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from scripted_model import byte_tokenizer

from cortex_neuron.text import lark
from cortex_neuron.text.judgement import problem
from cortex_neuron.text.schemas.dates import PATTERNS
from cortex_neuron.text.schemas.patterns import translated
from cortex_neuron.text.schemas.reading import read
from cortex_neuron.text.schemas.refusal import Refused

CAT = {"type": "object", "properties": {"is": {"const": "cat"}, "kitten": {"$ref": "#/$defs/Cat"}}, "required": ["is"]}
DOG = {"type": "object", "properties": {"is": {"enum": ["dog", "hound"]}}, "required": ["is"]}
PETS = {"$defs": {"Cat": CAT, "Dog": DOG}}


class Taken:
    """A schema's grammar, of bytes."""

    def __init__(self, schema: dict[str, Any]) -> None:
        tokenizer = LLTokenizer(byte_tokenizer().to_str(), n_vocab=272, eos_token=[256])
        self._matcher = LLMatcher(tokenizer, f"start: {lark.schema(schema)}", log_level=0)

    def allows(self, text: str) -> bool:
        matcher, tokens = self._matcher.deep_copy(), list(text.encode())
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def refusal(schema: dict[str, Any]) -> str:
    with pytest.raises(Refused) as refused:
        read(schema)
    return str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "integer"}, {"type": "null"}, {"type": "string"}],
        [{"const": 1}, {"const": 2}, {"enum": ["1", "x"]}],
        [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        [{"type": "integer", "maximum": 1}, {"type": "number", "minimum": 2}],
        [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}],
        [{"type": "string", "maxLength": 3}, {"type": "string", "format": "uuid"}],
        [{"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}],
        [{"type": "boolean"}, {"const": 1}],
        [True, False],
    ],
)
def test_one_of_is_any_of_where_no_answer_could_be_two(options: list[Any]) -> None:
    """By type, value, a property with other values, or as llguidance finds."""
    said = read({**PETS, "properties": {"pet": {"title": "Pet", "oneOf": options}}})
    assert said["properties"]["pet"] == {"title": "Pet", "anyOf": options}
    assert problem(f"start: {lark.schema(said)}") is None


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"type": "boolean"}, {"const": True}],
        [{"const": 1}, {"const": 1.0}],
        [{"enum": ["a", "b"]}, {"enum": ["c", "a"]}],
        [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Cat"}],
        [{"$ref": "#/$defs/Cat"}, {"type": "object"}],
        [{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": 2}}}],
        [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 3}],
        [{"$ref": "#/$defs/Nobody"}, {"$ref": "#/$defs/Cat"}],
        [{"type": "null"}, True],
        [{}, {}],
    ],
)
def test_one_of_is_refused_where_an_answer_could_be_two(options: list[Any]) -> None:
    """Whoever means anyOf can say so."""
    assert "oneOf: alternatives 0 and 1" in refusal({**PETS, "properties": {"pet": {"oneOf": options}}})


def test_what_stands_beside_one_of_tells_alternatives_apart() -> None:
    """And is kept."""
    beside = {"type": "string", "minLength": 3, "anyOf": [{"pattern": "^a"}]}
    said = read({**beside, "oneOf": [{"maxLength": 3}, {"minLength": 4}]})
    assert said == {**beside, "allOf": [{"anyOf": [{"maxLength": 3}, {"minLength": 4}]}]}


def test_one_of_where_only_a_reference_finds_it_is_refused_too() -> None:
    """Unless llguidance tells its alternatives apart."""
    places = {"components": {"enum": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}
    reason = problem(f"start: {lark.schema(read({'$ref': '#/components/enum', **places}))}")
    assert reason == "oneOf: alternatives are not known to exclude each other"


def test_telling_alternatives_apart_has_an_end() -> None:
    """Of a million characters, no request may cost minutes."""
    assert "too many" in refusal({"oneOf": [{"const": i} for i in range(60_000)]})
    assert "too many" in refusal({"oneOf": [{"type": "string", "pattern": f"^{i:05}"} for i in range(60)]})
    assert len(read({"oneOf": [{"const": i} for i in range(400)]})["anyOf"]) == 400


def test_values_and_names_are_not_keywords() -> None:
    """What looks like a schema is one only where schemas stand."""
    values = {"oneOf": [1, 1], "pattern": ".", "format": "date", "minProperties": 9}
    schema = {"const": values, "default": values, "enum": [values], "examples": [values]}
    assert read(schema) == schema
    named = {"properties": {"const": {"pattern": "."}}}
    assert read(named) == {"properties": {"const": {"pattern": translated(".")}}}


def test_a_count_of_keys_that_could_repeat_is_refused() -> None:
    """The same key twice is JSON, and counts once."""
    assert "minProperties" in refusal({"items": {"minProperties": 2}})
    assert "minProperties" in refusal({"minProperties": 3, "required": ["a"]})
    schema = {"minProperties": 2, "required": ["a"], "properties": {"a": {}}}
    assert read(schema) == schema


@pytest.mark.parametrize(
    "bounds",
    [
        {"exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 2, "exclusiveMaximum": 2.5},
        {"minimum": -0.5, "exclusiveMaximum": 0},
        {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 0, "exclusiveMinimum": True, "maximum": 0.5},
    ],
)
def test_a_number_that_would_not_be_excluded_is_refused(bounds: dict[str, Any]) -> None:
    """llguidance's grammar of such bounds has the excluded number: once it has not, this may go."""
    assert refusal(bounds).startswith("exclusiveM")
    taken = Taken(bounds)
    assert taken.allows("0") or taken.allows("2") or taken.allows("-0")


@pytest.mark.parametrize(
    ("bounds", "excluded"),
    [
        ({"exclusiveMinimum": 0, "maximum": 1}, "0"),
        ({"exclusiveMaximum": 1, "minimum": 0.5}, "1"),
        ({"exclusiveMinimum": -1, "maximum": -0.5}, "-1"),
        ({"exclusiveMinimum": 0.5, "maximum": 0.75}, "0.5"),
        ({"exclusiveMinimum": 0, "maximum": 1.5, "type": "integer"}, "0"),
    ],
)
def test_other_bounds_exclude(bounds: dict[str, Any], excluded: str) -> None:
    """And are taken."""
    assert not Taken(read(bounds)).allows(excluded)


def test_a_schema_nested_too_deep_is_refused() -> None:
    """Rather than an error of ours."""
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"items": schema}
    assert "nested" in refusal(schema)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"^[a-z]+\.[0-9]{2}$", r"^[a-z]+\.[0-9]{2}$"),
        ("a.b", r"a[^\n\r\u2028\u2029]b"),
        ("[.]", "[.]"),
        (r"\\s\.", r"\\s\."),
        ("[a[&~]", r"[a\[\&\~]"),
        (r"[\]&]&", r"[\]\&]&"),
        ("[^]", "(?s:.)"),
        ("([", "(["),
    ],
)
def test_patterns_mean_what_they_do_in_ecma_262(pattern: str, said: str) -> None:
    """Which Rust reads otherwise: any character but line ends, brackets within brackets, operators of classes."""
    assert translated(pattern) == said


@pytest.mark.parametrize("pattern", [r"\s", r"[\s]", r"^[^\S]$"])
def test_white_space_of_patterns_is_ecma_262s(pattern: str) -> None:
    """With the byte order mark, without U+0085. Within a class what is not white space stays Rust's."""
    space = re.compile(translated(pattern))
    assert all(space.search(each) for each in "\t\u00a0")
    assert not space.search("x")
    if r"\S" not in pattern:
        assert [bool(space.search(each)) for each in "\ufeff\x85"] == [True, False]


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "2023-02-28", "2023-12-31"], ["2023-02-29", "1900-02-29", "2100-02-29"]),
        ("time", ["23:59:59Z"], ["23:59:60Z", "22:59:60Z"]),
        ("date-time", ["2024-02-29t00:00:00Z"], ["2023-02-29T00:00:00Z", "2016-12-31T23:59:60Z"]),
    ],
)
def test_dates_that_there_are_not_are_not_written(form: str, good: list[str], bad: list[str]) -> None:
    """Nor leap seconds, of which a pattern cannot know."""
    assert all(re.search(PATTERNS[form], each) for each in good)
    assert not any(re.search(PATTERNS[form], each) for each in bad)


def test_a_dates_own_pattern_is_kept_beside_its_form() -> None:
    """Both hold."""
    assert read({"format": "date", "pattern": "^2"}) == {
        "format": "date", "pattern": "^2", "allOf": [{"pattern": PATTERNS["date"]}]
    }  # fmt: skip
    assert read({"format": "date"}) == {"format": "date", "pattern": PATTERNS["date"]}
