"""Answers that keep to a grammar, out of a model that would say anything: random weights, a byte a token."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from guesses import Replay
from jsonschema import Draft202012Validator
from llguidance import LLMatcher
from scripted_model import byte_tokenizer
from tokenizers import Tokenizer

from cortex_neuron.engine.grammar import Constraint, Grammars, constrain
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Opening, SamplingParams

VOCABULARY, EOS = 272, 256  # more than the tokenizer has, as of models whose embedding was padded
PROMPT = [104, 105]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "Ä🤖"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        "deep": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
    },
    "required": ["kind", "count", "tags"],
    "additionalProperties": False,
}
SCHEMA["properties"]["deep"]["additionalProperties"] = False  # type: ignore[index]
HOT = SamplingParams(temperature=1.5, seed=3)


def json_grammar(schema: dict[str, Any]) -> str:
    return f"start: %json {json.dumps({**schema, 'x-guidance': {'whitespace_flexible': False}})}"


GRAMMAR = json_grammar(SCHEMA)


@pytest.fixture(scope="module")
def model(make_folder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("random")
    config = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "bos_token_id": 257, "eos_token_id": EOS, "pad_token_id": 0,
    }  # fmt: skip
    make_folder(folder, "llama", config)
    return load(str(folder), "cpu", None, str(tmp_path_factory.mktemp("text")), 1, lambda *_: None)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(byte_tokenizer().to_str(), VOCABULARY, [EOS])


class Asking:
    """A session whose sequences may have a grammar."""

    def __init__(self, session: Any, grammars: Grammars) -> None:
        self.session, self.grammars = session, grammars
        submit = session.engine.submit
        self.constraint: Constraint | None = None
        session.engine.submit = lambda frame: submit(frame, self.constraint)

    def submit(
        self,
        grammar: str | None,
        sampling: SamplingParams = HOT,
        max_tokens: int = 200,
        opening: Opening | None = None,
        **more: Any,
    ) -> int:
        self.constraint = None if grammar is None else self.grammars.constraint(grammar, opening)
        number: int = self.session.submit(PROMPT, sampling, max_tokens, **more)
        return number

    def opened_at(self, number: int) -> list[int]:
        """Where in the answer the engine says that the grammar has begun to bind it."""
        places, count = [], 0
        for output in (each for step in self.session.steps for each in step.outputs if each.id == number):
            places += [] if output.opened_at is None else [count + output.opened_at]
            count += len(output.tokens)
        return places

    def text(self, number: int) -> str:
        tokens = self.session.answers[number].tokens
        return bytes(token for token in tokens if token < EOS).decode()


@pytest.fixture
def asking(start_with: Callable[..., Any], model: LoadedModel, grammars: Grammars) -> Callable[..., Asking]:
    return lambda **sizes: Asking(start_with(model, **sizes), grammars)


@pytest.mark.parametrize("seed", range(8))
def test_json_of_a_schema_comes_out_of_a_model_that_knows_none(asking: Callable[..., Asking], seed: int) -> None:
    """Every token is one that the schema allows, characters of several tokens included; then the answer ends."""
    ask = asking()
    number = ask.submit(GRAMMAR, SamplingParams(temperature=1.5, seed=seed))
    ask.session.finish()
    Draft202012Validator(SCHEMA).validate(json.loads(ask.text(number)))
    assert ask.session.answers[number].finish == "stop"


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0),
        SamplingParams(temperature=1, top_k=2, seed=1),
        SamplingParams(temperature=1, top_p=0.1, seed=1),
        SamplingParams(temperature=1, min_p=0.9, seed=1),
        SamplingParams(temperature=1, repetition_penalty=5, logit_bias={ord("{"): -100.0}, seed=1),
    ],
)
def test_the_grammar_is_kept_to_however_tokens_are_chosen(
    asking: Callable[..., Asking], sampling: SamplingParams
) -> None:
    """Filters see what the grammar has left; a bias cannot forbid the only token there is."""
    ask = asking()
    number = ask.submit(GRAMMAR, sampling)
    ask.session.finish()
    Draft202012Validator(SCHEMA).validate(json.loads(ask.text(number)))


def test_rows_without_a_grammar_are_what_they_are_alone(asking: Callable[..., Asking]) -> None:
    """In one batch with rows that have one, each its own."""
    free = SamplingParams(temperature=1.2, seed=5)
    alone = asking()
    lone = alone.submit(None, free, 40, ignore_eos=True)
    alone.session.finish()
    ask = asking()
    bound = [ask.submit(GRAMMAR), ask.submit(json_grammar({"enum": ["only"]}))]
    number = ask.submit(None, free, 40, ignore_eos=True)
    ask.session.finish()
    assert ask.session.answers[number].tokens == alone.session.answers[lone].tokens
    json.loads(ask.text(bound[0]))
    assert ask.text(bound[1]) == '"only"'


@pytest.mark.parametrize("wrong_every", [1, 4, 1000])
def test_drafts_keep_to_the_grammar(asking: Callable[..., Asking], wrong_every: int) -> None:
    """Each token is drawn from what the grammar allows after those before it, and the answer ends where it ends."""
    alone = asking()
    alone.submit(GRAMMAR)
    alone.session.finish()
    [expected] = alone.session.answers.values()
    ask = asking(draft=partial(Replay, [*PROMPT, *expected.tokens, *b"and more"], wrong_every))
    ask.submit(GRAMMAR)
    ask.session.finish()
    [got] = ask.session.answers.values()
    assert (got.tokens, got.finish) == (expected.tokens, "stop")
    assert wrong_every == 1 or len(ask.session.steps) < len(alone.session.steps) // 2


def test_a_draft_model_need_not_know_the_grammar(asking: Callable[..., Asking], model: LoadedModel) -> None:
    """Its drafts are what it would say freely: those that the grammar forbids are not drawn, and beside them answers
    without a grammar, greedy and drawn, are what they are alone."""
    asked = [(GRAMMAR, HOT), (None, SamplingParams(temperature=0)), (None, SamplingParams(temperature=1.2, seed=5))]
    told = []
    for drafter in (None, model):
        ask = asking(drafter=drafter)
        numbers = [ask.submit(grammar, sampling, 60, ignore_eos=grammar is None) for grammar, sampling in asked]
        ask.session.finish()
        told.append([(ask.session.answers[number].tokens, ask.session.answers[number].finish) for number in numbers])
    assert told[0] == told[1]
    assert ask.session.steps[-1].accepted > 20


def test_a_seeded_answer_is_the_same_in_a_batch_and_after_preemption(asking: Callable[..., Asking]) -> None:
    """A sequence that gave up its blocks goes on in its grammar where it was."""
    alone = asking()
    lone = alone.submit(GRAMMAR)
    alone.session.finish()
    ask = asking(blocks=6, sequences=4)  # too few for all of them at once
    numbers = [ask.submit(GRAMMAR, SamplingParams(temperature=1.5, seed=seed)) for seed in (1, 2, 4)]
    again = ask.submit(GRAMMAR)
    preempted = 0
    put_back = ask.session.engine._preempt

    def count(sequence: Any) -> None:
        nonlocal preempted
        preempted += 1
        put_back(sequence)

    ask.session.engine._preempt = count
    ask.session.finish()
    assert preempted > 0
    assert ask.text(again) == alone.text(lone)
    for number in numbers:
        Draft202012Validator(SCHEMA).validate(json.loads(ask.text(number)))


def test_max_tokens_cuts_an_answer_within_its_grammar(asking: Callable[..., Asking]) -> None:
    """Its beginning is one that the grammar allows, and the reason is length."""
    ask = asking()
    number = ask.submit(GRAMMAR, max_tokens=9)
    ask.session.finish()
    assert ask.session.answers[number].finish == "length"
    assert ask.text(number) == '{"kind":"'


def test_an_answer_ends_where_nothing_more_may_come(asking: Callable[..., Asking]) -> None:
    """Without another step for the end token, and with ignore_eos too: there is nothing to go on with."""
    ask = asking()
    for more in ({}, {"ignore_eos": True}):
        number = ask.submit('start: "ab"', **more)
        ask.session.finish()
        assert ask.session.answers[number].tokens == [97, 98]
        assert ask.session.answers[number].finish == "stop"


def test_cancelling_a_bound_sequence_leaves_the_others(asking: Callable[..., Asking]) -> None:
    """As any other."""
    ask = asking()
    gone, stays = ask.submit(GRAMMAR), ask.submit(GRAMMAR)
    ask.session.step()
    ask.session.engine.cancel([gone])
    ask.session.finish()
    json.loads(ask.text(stays))
    assert ask.session.answers[gone].finish is None


def test_log_probabilities_are_the_models_own(asking: Callable[..., Asking]) -> None:
    """Not those of what the grammar has left: the best token may be one that it forbids."""
    ask = asking()
    number = ask.submit('start: "ab"', SamplingParams(temperature=0), logprobs=1)
    ask.session.finish()
    first = ask.session.answers[number].logprobs[0]
    assert first.chosen <= first.top[0]
    assert first.chosen > float("-inf")


def test_a_grammar_that_fails_on_the_way_fails_its_request_alone(asking: Callable[..., Asking]) -> None:
    """Others in the batch go on."""
    ask = asking()
    fails, stays = ask.submit(GRAMMAR), ask.submit(GRAMMAR)
    ask.session.step()
    sequence = ask.session.engine._by_id[fails]
    assert sequence.constraint is not None
    sequence.constraint.accept(ord("x"))  # what its grammar does not allow
    ask.session.finish()
    last = ask.session.answers[fails].last
    assert (last.finish, last.error_kind) == ("error", "grammar_failed")
    json.loads(ask.text(stays))


MARK = 258
FROM_MARK = f"start: <[{MARK}]> /[0-9]{{3}}/"
# The mark comes soon, and would come again and again.
EAGER = SamplingParams(temperature=1.0, seed=3, logit_bias={MARK: 4.0, EOS: -100.0})


def test_a_grammar_with_an_opening_binds_from_there_on(asking: Callable[..., Asking]) -> None:
    """Before it the answer is what it is without one; where it began is told once."""
    ask = asking()
    free, bound = ask.submit(None, EAGER), ask.submit(FROM_MARK, EAGER, opening=Opening(tokens=[MARK]))
    ask.session.finish()
    without, answer = ask.session.answers[free].tokens, ask.session.answers[bound].tokens
    place = without.index(MARK)
    assert place > 0
    assert answer[: place + 1] == without[: place + 1]
    assert bytes(answer[place + 1 :]).isdigit()
    assert (len(answer), ask.session.answers[bound].finish) == (place + 4, "stop")
    assert (ask.opened_at(bound), ask.opened_at(free)) == ([place], [])


def test_a_grammar_whose_opening_does_not_come_changes_nothing(asking: Callable[..., Asking]) -> None:
    """Not one token of it."""
    ask = asking()
    free = ask.submit(None, HOT, 60, ignore_eos=True)
    bound = ask.submit(FROM_MARK, HOT, 60, Opening(tokens=[271]), ignore_eos=True)
    ask.session.finish()
    assert 271 not in ask.session.answers[free].tokens
    assert ask.session.answers[bound].tokens == ask.session.answers[free].tokens


@pytest.mark.parametrize(("in_thought", "begins", "place"), [(True, [], 5), (False, [257], 5), (False, [], 1)])
def test_an_opening_within_a_thought_is_none(
    grammars: Grammars, in_thought: bool, begins: list[int], place: int
) -> None:
    """Thoughts are free; the prompt may have begun one."""
    opening = Opening(tokens=[MARK], thought=(257, 259), in_thought=in_thought)
    constraint = grammars.constraint(FROM_MARK, opening)
    said = [*begins, 97, MARK, 97, 259, MARK, 49] if begins else [97, MARK, 97, 97, 259, MARK, 49]
    opened = []
    for i, token in enumerate(said):
        if not constraint.binds:
            constraint.accept(token)
            opened += [i] if constraint.has_opened else []
    assert opened == [place]
    assert constraint.failure is None


@pytest.mark.parametrize("wrong_every", [1, 3, 1000])
def test_drafts_open_a_grammar_where_it_opens_without_them(asking: Callable[..., Asking], wrong_every: int) -> None:
    """In the middle of a step, too: what was drafted behind it is judged by the grammar."""
    alone = asking()
    lone = alone.submit(FROM_MARK, EAGER, opening=Opening(tokens=[MARK]))
    alone.session.finish()
    expected = alone.session.answers[lone].tokens
    ask = asking(draft=partial(Replay, [*PROMPT, *expected, *b"and more"], wrong_every))
    number = ask.submit(FROM_MARK, EAGER, opening=Opening(tokens=[MARK]))
    ask.session.finish()
    assert ask.session.answers[number].tokens == expected
    assert ask.opened_at(number) == alone.opened_at(lone)


@pytest.mark.parametrize("grammar", ["", "start: nothing", '{"grammars": []}', 'start: %json {"not": {}}'])
def test_a_grammar_that_is_none_is_a_bad_request(grammars: Grammars, grammar: str) -> None:
    """The daemon has looked already: whoever else sends a frame is told as well."""
    with pytest.raises(BadRequest):
        grammars.constraint(grammar)


def test_a_tokenizer_that_cannot_is_a_bad_request() -> None:
    """Rather than the end of the group."""
    with pytest.raises(BadRequest, match="tokenizer"):
        Grammars("{}", 10, [1]).constraint('start: "a"')


def test_a_grammar_is_compiled_once_and_each_sequence_has_its_own_place(grammars: Grammars) -> None:
    """Agents send the same tools again and again."""
    one, other = grammars.constraint('start: "ab"'), grammars.constraint('start: "ab"')
    one.accept(97)
    one.accept(98)
    assert (one.ended, other.ended) == (True, False)


def test_the_mask_is_what_the_grammar_allows_in_every_row() -> None:
    """Several rows at once and one alone, against the library's own word."""
    grammars = Grammars(byte_tokenizer().to_str(), VOCABULARY, [EOS])
    texts = ['start: "ab"', GRAMMAR, "start: /[0-9]+/", 'start: "" | "z"']
    logits = torch.randn(9, VOCABULARY, generator=torch.Generator().manual_seed(1))
    constraints: list[Constraint | None] = [None, *map(grammars.constraint, texts), None, None, None, None]
    constrained = constrain(logits, constraints)
    for row, each in enumerate(constraints):
        if each is None:
            assert torch.equal(constrained[row], logits[row])
            continue
        allowed = {token for token in range(259) if _is_allowed(each.matcher, token)}
        kept = (constrained[row] > float("-inf")).nonzero()[:, 0].tolist()
        assert set(kept) == allowed
        assert torch.equal(constrained[row, kept], logits[row, kept])
        assert torch.equal(constrain(logits[row : row + 1], [each])[0], constrained[row])


def _is_allowed(matcher: LLMatcher, token: int) -> bool:
    return matcher.deep_copy().consume_token(token)


def test_random_grammars_of_many_sequences_are_all_kept_to(asking: Callable[..., Asking]) -> None:
    """Arriving and leaving at any time, under pressure, some of them free."""
    draw = random.Random(2)
    ask = asking(blocks=24, sequences=6)
    wanted = {}
    for i in range(24):
        values = ["".join(draw.choices("abcé", k=draw.randint(1, 12))) for _ in range(3)]
        grammar = None if i % 4 == 0 else json_grammar({"enum": values})
        wanted[ask.submit(grammar, SamplingParams(temperature=2, seed=i), 40)] = None if i % 4 == 0 else values
        for _ in range(draw.randint(0, 6)):
            if ask.session.engine.has_work:
                ask.session.step()
    ask.session.finish()
    for number, values in wanted.items():
        assert values is None or json.loads(ask.text(number)) in values


def test_a_real_vocabulary_is_kept_to_as_well(
    start: Callable[..., Any], demo_model: LoadedModel, demo_text_dir: Path, oracle: list[dict[str, Any]]
) -> None:
    """The demo model's 49,152 tokens, beside a row that is not bound and answers as the reference does."""
    grammars = Grammars((demo_text_dir / "tokenizer.json").read_text(), demo_model.vocab_size, demo_model.eos_ids)
    tokenizer = Tokenizer.from_file(str(demo_text_dir / "tokenizer.json"))
    ask = Asking(start(), grammars)
    free = ask.session.submit(oracle[0]["prompt_ids"], SamplingParams(temperature=0), 8)
    bound = []
    for i in range(2):
        ask.constraint = grammars.constraint(GRAMMAR)
        bound.append(ask.session.submit(oracle[i]["prompt_ids"], SamplingParams(temperature=1, seed=i), 200))
    ask.session.finish()
    for number in bound:
        Draft202012Validator(SCHEMA).validate(json.loads(tokenizer.decode(ask.session.answers[number].tokens)))
    assert ask.session.answers[free].tokens == oracle[0]["token_ids"][:8]
