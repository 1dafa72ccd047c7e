"""Steps that overlap: the next is given to the device before this one's tokens are known, and no answer shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stand_in import EOS, StandIn, answer, prompt_of, start_engine
from torch import Tensor

from cortex_neuron.engine import sampler
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.sampler import Draw
from cortex_neuron.layers.batch import Batch
from cortex_neuron.layers.transfer import Fetched
from cortex_neuron.protocol.frames import SamplingParams

BLOCK = 4
PROMPTS = [prompt_of(np.random.default_rng(seed), 5 + 3 * seed) for seed in range(4)]
SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "penalised": {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    "seeded": {"temperature": 0.9, "seed": 5},
    "filtered": {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "seed": 6},
    "biased": {"temperature": 0.8, "logit_bias": {3: 2.0, 5: -100.0}, "top_p": 0.8, "seed": 7},
}


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each step that is given to the runner, and each time that somebody waits for one's tokens."""
    happened: list[str] = []

    def noting(real: Any, what: str) -> Any:
        return lambda *arguments: (happened.append(what), real(*arguments))[1]

    monkeypatch.setattr(StandIn, "run", noting(StandIn.run, "run"))
    monkeypatch.setattr(Draw, "read", noting(Draw.read, "read"))
    return happened


def _session(start_session: Any, **more: Any) -> tuple[Any, StandIn]:
    engine, runs = start_engine(CacheSize(BLOCK, 64, 256), 4, 32, overlaps=True, **more)
    return start_session(engine), runs


def test_the_next_step_is_given_before_this_ones_tokens_are_waited_for(start_session, order) -> None:
    """From the first step to the last but one, so that the device always has something to do."""
    session, _ = _session(start_session)
    session.ask(PROMPTS[0], max_tokens=6, ignore_eos=True)
    assert order == ["run", *["run", "read"] * 5, "read"]


def test_no_step_more_is_taken_than_without(start_session) -> None:
    """Where an answer ends by its length, which is known beforehand."""
    session, runs = _session(start_session)
    session.ask(PROMPTS[1], max_tokens=9, ignore_eos=True)
    assert (len(session.steps), runs.num_computed) == (9, len(PROMPTS[1]) + 8)


def test_an_answer_that_ends_of_itself_costs_one_row_more(start_session) -> None:
    """Which has been given to the device by then, and is of no use to anyone."""
    session, runs = _session(start_session)
    prompt, expected = next(
        (text, tokens)
        for text in (prompt_of(np.random.default_rng(seed), 6) for seed in range(1000))
        if 3 < len(tokens := answer(text, 40, 256)) < 40 and tokens[-1] == EOS
    )
    got = session.ask(prompt, max_tokens=40)
    assert (got.tokens, got.finish) == (expected, "stop")
    assert runs.num_computed == len(prompt) + len(expected)
    assert session.engine._pool.num_free == 64


def test_what_shares_a_beginning_finds_it_as_soon_as_without(start_session) -> None:
    """Blocks that a step on its way fills can be found by the one after it."""
    computed = []
    for overlaps in (False, True):
        engine, runs = start_engine(CacheSize(BLOCK, 64, 256), 4, 32, overlaps=overlaps)
        session = start_session(engine)
        for own in range(4):
            session.submit([*PROMPTS[3], *[own] * 3], max_tokens=4, ignore_eos=True)
        session.finish()
        computed.append(runs.num_computed)
    assert computed[0] == computed[1]


def test_a_step_that_fails_ends_its_own_sequences_and_no_token_is_lost(start_session) -> None:
    """Those of the step before it are told first."""
    session, runs = _session(start_session)
    number = session.submit(PROMPTS[2], max_tokens=20, ignore_eos=True)
    session.step()
    known = len(session.answers[number].tokens)
    runs.fails = True
    session.step()
    assert len(session.answers[number].tokens) == known + 1
    session.finish()
    got = session.answers[number]
    assert (got.last.error_kind, len(got.tokens)) == ("engine_error", known + 1)
    assert session.engine._pool.num_free == 64
    assert session.ask(PROMPTS[2], max_tokens=5).tokens == answer(PROMPTS[2], 5, 256)


def test_a_row_that_is_not_finite_ends_its_sequence_alone(start_session, monkeypatch) -> None:
    """Though the step after it has been given to the device."""
    session, runs = _session(start_session)
    ids = [session.submit(prompt, max_tokens=8, ignore_eos=True) for prompt in PROMPTS]
    session.step()
    real = runs.run

    def spoilt(batch: Batch, drawn: Tensor | None = None) -> Tensor:
        logits = real(batch, drawn)
        logits[1] = float("nan")
        return logits

    monkeypatch.setattr(runs, "run", spoilt)
    session.step()
    monkeypatch.setattr(runs, "run", real)
    session.finish()
    ends = [session.answers[i].last.error_kind for i in ids]
    assert ends == [None, "non_finite_logits", None, None]
    for i, prompt in zip(ids, PROMPTS, strict=True):
        expected = _unending(prompt, 8)
        assert session.answers[i].tokens == expected[: len(session.answers[i].tokens)]


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_whatever_is_asked_for_is_drawn_as_without(torch_model, start_with, sampling) -> None:
    """What a draw asks of the host is of tokens that have been read by then. Log-probabilities are the same, too."""
    model = torch_model("llama", SMALL)
    asked = {"sampling": SamplingParams(**sampling), "max_tokens": 30, "logprobs": 3, "ignore_eos": True}
    expected, got = (_answers(start_with(model, overlaps=overlaps), asked) for overlaps in (False, True))
    for one, other in zip(got, expected, strict=True):
        assert one.tokens == other.tokens
        assert [row.top_ids for row in one.logprobs] == [row.top_ids for row in other.logprobs]
        assert [row.top for row in one.logprobs] == [pytest.approx(row.top, abs=1e-4) for row in other.logprobs]


def test_a_draw_that_proves_wrong_is_drawn_again_before_it_is_told(torch_model, start_with, monkeypatch) -> None:
    """Filters that keep more than the best few are seen when the tokens are read: by then the next step computes what
    follows a wrong one. It counts for nothing, and the sequence goes on from the right one, with the same numbers."""
    model = torch_model("llama", SMALL)
    sampling = SamplingParams(temperature=1.5, top_p=0.97, seed=4)
    asked = {"sampling": sampling, "max_tokens": 40, "logprobs": 2, "ignore_eos": True}
    expected = _answers(start_with(model, overlaps=False), asked)
    monkeypatch.setattr(sampler, "NUM_CANDIDATES", 6)
    session = start_with(model, overlaps=True)
    corrected: list[int] = []
    real = Draw._correct
    monkeypatch.setattr(Draw, "_correct", lambda self, *more: (real(self, *more), corrected.extend(self.corrected))[0])
    got = _answers(session, asked)
    assert len(corrected) > 10, "nothing was tested"
    for one, other in zip(got, expected, strict=True):
        assert one.tokens == other.tokens
        assert [row.top_ids for row in one.logprobs] == [row.top_ids for row in other.logprobs]
        assert [row.chosen for row in one.logprobs] == [pytest.approx(r.chosen, abs=1e-4) for r in other.logprobs]
    assert len(session.steps) > len(expected[0].tokens), "a step that counts for nothing is a step more"


def test_one_that_is_cancelled_while_its_step_is_on_its_way_leaves_nothing(start_session) -> None:
    """Its blocks are free at once, nobody is told of its token, and who sits down in its seat is not taken for it."""
    session, _ = _session(start_session)
    number = session.submit(PROMPTS[0], max_tokens=20)
    session.step()
    session.engine.cancel([number])
    assert (session.engine.has_work, session.engine._pool.num_free) == (False, 64)
    told = len(session.answers[number].tokens)
    assert session.ask(PROMPTS[1], max_tokens=12).tokens == answer(PROMPTS[1], 12, 256)
    assert len(session.answers[number].tokens) == told


def test_fetched_tensors_are_as_they_were() -> None:
    """On a CPU they are there at once."""
    numbers, flags = torch.arange(3), torch.tensor([True, False])
    assert [each.tolist() for each in Fetched(numbers, flags).wait()] == [[0, 1, 2], [True, False]]


def _answers(session: Any, asked: dict[str, Any]) -> list[Any]:
    ids = [session.submit(prompt, **asked) for prompt in PROMPTS]
    session.finish()
    return [session.answers[i] for i in ids]


def _unending(prompt: list[int], max_tokens: int) -> list[int]:
    """The stand-in's answer where its end does not end it."""
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        tokens += answer([*prompt, *tokens], 1, 256)
    return tokens
