"""What JSON Schemas are taken, and kept to: the cases of the JSON Schema Test Suite, in the demo model's tokens."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from pages import page
from schema_suite import Case, Group, groups
from tokenizers import Tokenizer

from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import AnswerFormat
from cortex_neuron.engine.grammar import Grammars
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.text import constraint
from cortex_neuron.text.text_model import of, read

# Valid JSON that no answer will be, by the names of the cases: what docs/api.md says is left. What is not valid and yet
# taken has no place here: such a schema must be refused.
NEVER_SAID = {
    "*/type.json / integer type matches integers / a float *": "an integer has no point",
    "*.json / * / float zero is valid": "a number of enum or const is said as it stands there",
    "*.json / * / float one is valid": "as it stands there",
    "*/const.json / * / float * valid": "as it stands there",
    "*/enum.json / * / [[][01].0[]] is valid": "as it stands there",
    "draft7/ref.json / ref overrides any sibling keywords / *ignored": "what stands beside a $ref holds",
    "*/optional/float-overflow.json / * / *": "an integer has no exponent",
    "*/format.json / * / invalid * string is only an annotation by default": "a format is kept to",
    "*/optional/format/*time.json / * / *valid *leap second*": "no leap seconds",
    "*/optional/format/email.json / * / a quoted string * is valid": "a mailbox is not quoted",
    "*/optional/format/email.json / * / an IPv6-address-literal after the @ is valid": "nor of IPv6",
    "*/optional/format/ipv6.json / * / mixed format *": "an address has no dots",
    "*/optional/format/ipv6.json / * / a long valid ipv6": "an address has no dots",
}
# What a draft leaves open, and the next says otherwise.
NOT_CLAIMED = {"draft7/optional/content.json": "what a text's content is, is an annotation from 2019-09 on"}
ORDERS = 500
OF_THE_DRAFTS_THEMSELVES = {"$dynamicAnchor", "format"}  # in the schemas of schemas, to which one can refer


class Taken:
    """A schema's grammar, as the engine compiles it."""

    def __init__(self, matcher: LLMatcher, tokenizer: Tokenizer) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer

    def allows(self, value: Any) -> bool:
        """Whether the value may be an answer, its keys in one order or another."""
        return any(self._allows(each) for each in islice(orders(value), ORDERS))

    def _allows(self, value: Any) -> bool:
        """Compact or indented is the same to a grammar."""
        found = {self._says(json.dumps(value, ensure_ascii=False, **way)) for way in ({"indent": 2}, COMPACT)}
        assert len(found) == 1, value
        return found == {True}

    def _says(self, text: str) -> bool:
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        matcher = self._matcher.deep_copy()
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


COMPACT: dict[str, Any] = {"separators": (",", ":")}


def orders(value: Any) -> Iterator[Any]:
    """The value with its keys in each order that they can have."""
    if isinstance(value, list):
        yield from (list(each) for each in product(*(list(orders(item)) for item in value)))
    elif isinstance(value, dict):
        for keys in permutations(value):
            for values in product(*(list(orders(value[key])) for key in keys)):
                yield dict(zip(keys, values, strict=True))
    else:
        yield value


def keywords(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    return set(schema).union(*map(keywords, schema.values())) if isinstance(schema, dict) else set()


class Outcome:
    """What became of the suite."""

    def __init__(self) -> None:
        self.refused: dict[Group, str] = {}
        self.taken: dict[Group, list[tuple[Case, bool]]] = {}

    @property
    def cases(self) -> list[tuple[Case, bool]]:
        """Those of schemas that are taken, and whether each may be an answer."""
        return [each for cases in self.taken.values() for each in cases]


@pytest.fixture(scope="module")
def outcome(demo_model: LoadedModel, demo_text_dir: Path) -> Outcome:
    language = of(read(demo_text_dir), demo_model.vocab_size)
    grammars = Grammars(language.tokenizer.to_str(), demo_model.vocab_size, demo_model.eos_ids)
    outcome = Outcome()
    for group in groups():
        if not isinstance(group.schema, dict) or group.name.partition(" / ")[0] in NOT_CLAIMED:
            continue  # a schema that is true or false is none that a parameter can be
        form = AnswerFormat("json_schema", group.schema, "guided_json")
        try:
            binding = constraint.binding(language, (), form, None, chat=False)
        except InvalidParameter as error:
            outcome.refused[group] = error.message
            continue
        assert binding is not None
        taken = Taken(grammars.constraint(binding.grammar).matcher, language.tokenizer)
        outcome.taken[group] = [(case, taken.allows(case.value)) for case in group.cases]
    return outcome


def test_an_answer_that_its_schema_forbids_is_never_possible(outcome: Outcome) -> None:
    """Whatever is taken is kept to."""
    assert [case.name for case, allowed in outcome.cases if allowed and not case.is_valid] == []


def test_an_answer_that_its_schema_allows_is_possible_but_for_what_is_written_down(outcome: Outcome) -> None:
    """And what is written down is so: no line of the table is stale."""
    stale = set(NEVER_SAID)
    for case, allowed in outcome.cases:
        patterns = [pattern for pattern in NEVER_SAID if fnmatchcase(case.name, pattern)]
        if case.is_valid:
            assert allowed != bool(patterns), case.name
            stale -= set(patterns)
    assert stale == set()


def test_a_schema_that_is_refused_is_refused_by_its_keyword(outcome: Outcome) -> None:
    """So that its author knows what to leave out; or it has no answers at all."""
    for group, message in outcome.refused.items():
        reason = message.removeprefix("guided_json: ")
        if reason.startswith("Unsatisfiable schema: "):
            assert not any(case.is_valid for case in group.cases), group.name
        else:
            named = set(re.findall(r"[$\w]+", reason))
            assert named & (keywords(group.schema) | OF_THE_DRAFTS_THEMSELVES), (group.name, reason)


def test_the_page_tells_how_many_are_taken(outcome: Outcome) -> None:
    """docs/api.md, in one sentence."""
    taken, refused = len(outcome.taken), len(outcome.refused)
    agrees = Counter(case.is_valid == allowed for case, allowed in outcome.cases)
    assert (
        f"Of {taken + refused} schemas in the JSON Schema Test Suite (drafts 7 and 2020-12) {taken} are taken and "
        f"{refused} are refused by the keyword; of {agrees.total()} cases of those taken {agrees[True]} agree, and the "
        f"other {agrees[False]} are valid JSON that an answer never is"
    ) in " ".join(page("api.md").split())
