"""Drafts: an answer is what it is without them, and one that repeats itself takes fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from guesses import Guesses, Replay
from stand_in import EOS, StandIn, answer, prompt_of, start_engine
from torch import Tensor

from cortex_neuron.engine.engine import CPU_DRAFT_ROWS
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.prompt_lookup import PromptLookup
from cortex_neuron.layers.batch import Batch
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.frames import SamplingParams, Speculation

BLOCK = 4
CONFIG = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
PROMPT = prompt_of(np.random.default_rng(4), 21)
LOOKUP = Speculation(num_speculative_tokens=8, prompt_lookup_min=1, prompt_lookup_max=3)
SAMPLINGS = {
    "greedy": {"temperature": 0},
    "penalised": {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    "seeded": {"temperature": 0.9, "seed": 5},
    "filtered": {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "seed": 6},
    "all": {"temperature": 0.8, "repetition_penalty": 1.2, "logit_bias": {3: 2.0, 5: -100.0}, "top_p": 0.8, "seed": 7},
}


@pytest.fixture(scope="module", params=["native", "torch"])
def model(request, make_folder, tmp_path_factory) -> LoadedModel:
    """Of random weights, as either runner computes it."""
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    folder = tmp_path_factory.mktemp("model")
    sizes = CONFIG | ({"head_dim": 16, "hidden_size": 96} if request.param == "native" else {})
    make_folder(folder, "llama", sizes)
    loaded = load(str(folder), "cpu", None, str(tmp_path_factory.mktemp("text")), 2, lambda *_: None)
    assert (type(loaded.module).__name__ == "Decoder") == (request.param == "native")
    return loaded


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("wrong_every", [1, 3, 1000])
def test_drafts_change_nothing_of_an_answer_but_its_steps(model, start_with, sampling, wrong_every) -> None:
    """Greedy or drawn, with penalties, bias, filters and log-probabilities: right drafts, wrong ones, and both."""
    asked = {"sampling": SamplingParams(**sampling), "max_tokens": 60, "logprobs": 3, "ignore_eos": True}
    plain = start_with(model)
    expected = plain.ask(PROMPT, **asked)
    session = start_with(model, draft=partial(Replay, PROMPT + expected.tokens, wrong_every))
    got = session.ask(PROMPT, **asked)
    assert (got.tokens, got.finish) == (expected.tokens, "length")
    for one, other in zip(got.logprobs, expected.logprobs, strict=True):
        assert one.top_ids[0] == other.top_ids[0]
        assert [one.chosen, *one.top] == pytest.approx([other.chosen, *other.top], abs=2e-3)
    least = {1: 60, 3: 20, 1000: 60 // CPU_DRAFT_ROWS}[wrong_every]
    assert least <= len(session.steps) <= (60 if wrong_every == 1 else len(plain.steps) // 2)
    assert session.steps[-1].accepted == 60 - len(session.steps)


def test_a_text_that_repeats_itself_is_decoded_in_fewer_steps(start) -> None:
    """Seven tokens, twelve times: the demo model goes on with them, and each step gives several."""
    text = [28, 33, 28, 216, 34, 28, 216] * 12
    plain = start()
    expected = plain.ask(text, max_tokens=64, ignore_eos=True)
    session = start(draft=partial(PromptLookup, LOOKUP))
    got = session.ask(text, max_tokens=64, ignore_eos=True)
    assert got.tokens == expected.tokens
    assert len(plain.steps) == 64
    assert len(session.steps) <= 16
    assert session.steps[-1].accepted == len(plain.steps) - len(session.steps)


def test_a_model_that_drafts_for_itself_is_right(model, start_with) -> None:
    """By either runner: each step gives what was drafted and one more, greedy or with penalties that it knows nothing
    of; and all of an answer is as it is without."""
    for name, least_right in (("greedy", 1.0), ("penalised", 0.0)):
        asked = {"sampling": SamplingParams(**SAMPLINGS[name]), "max_tokens": 60, "ignore_eos": True}
        expected = start_with(model).ask(PROMPT, **asked)
        session = start_with(model, drafter=model)
        got = session.ask(PROMPT, **asked)
        assert (got.tokens, got.finish) == (expected.tokens, "length")
        assert session.steps[-1].drafted > 0
        assert session.steps[-1].accepted >= least_right * session.steps[-1].drafted
        assert name != "greedy" or len(session.steps) <= 12


# ---- the ends of answers


def _session(start_session, draft: Callable[[int], Any] | None, blocks: int = 64, sequences: int = 4):
    engine, runs = start_engine(CacheSize(BLOCK, blocks, blocks * BLOCK), sequences, 512, draft)
    return start_session(engine), runs


def _ignoring_ends(prompt: list[int], length: int) -> list[int]:
    """What the stand-in says, on and on."""
    said: list[int] = []
    while len(said) < length:
        said += answer(prompt + said, length - len(said), 1024)
    return said


def _that_ends(length: int) -> tuple[list[int], list[int]]:
    """A prompt whose answer comes to an end of its own after `length` tokens, and that answer."""
    for seed in range(3000):
        prompt = prompt_of(np.random.default_rng(seed), 9)
        said = answer(prompt, 40, 256)
        if len(said) == length and said[-1] == EOS:
            return prompt, said
    raise AssertionError("no such prompt")


def test_what_is_drafted_beyond_the_end_is_not_told(start_session) -> None:
    """An answer that ends by itself ends there, though the next tokens had been drafted, and were the model's own."""
    prompt, said = _that_ends(7)
    session, _ = _session(start_session, lambda _: Guesses(1.0, 256))
    got = session.ask(prompt, max_tokens=40)
    assert (got.tokens, got.finish) == (said, "stop")
    assert len(session.steps) == 2


@pytest.mark.parametrize("max_tokens", range(1, 15))
def test_an_answer_has_as_many_tokens_as_were_asked_for(start_session, max_tokens) -> None:
    """However many are drafted at once."""
    session, _ = _session(start_session, lambda _: Guesses(1.0, 256))
    got = session.ask(PROMPT, max_tokens=max_tokens, ignore_eos=True)
    assert (len(got.tokens), got.finish) == (max_tokens, "length")
    assert len(session.steps) == 1 + -(-(max_tokens - 1) // CPU_DRAFT_ROWS)


def test_a_row_that_is_not_finite_fails_its_sequence_after_what_came_before_it(start_session) -> None:
    """Three drafts are right, and after the second there is NaN: two more tokens, then the error, and nothing is
    findable of what this sequence has computed (case T12)."""
    session, runs = _session(start_session, lambda _: Guesses(1.0, 256))
    number = session.submit(PROMPT, max_tokens=30, ignore_eos=True)
    session.step()
    runs.run = _spoiling(runs, row=2)
    session.step()
    got, expected = session.answers[number], answer(PROMPT, 3, 256)
    assert (got.tokens, got.finish, got.last.error_kind) == (expected, "error", "non_finite_logits")
    assert session.engine._pool.num_free == 64
    del runs.run
    assert session.ask(PROMPT, max_tokens=1).first.cached_tokens == 0


def _spoiling(runs: StandIn, row: int) -> Callable[[Batch, Tensor | None], Tensor]:
    def run(batch: Batch, drawn: Tensor | None) -> Tensor:
        logits = StandIn.run(runs, batch, drawn)
        logits[row] = torch.nan
        return logits

    return run


# ---- what a step has drafts for


def test_a_step_with_drafts_has_no_more_rows_than_are_worth_it(start_session) -> None:
    """Fourteen that decode have no drafts; as they end, those that are left share what is free."""
    session, runs = _session(start_session, lambda _: Guesses(1.0, 1024), blocks=256, sequences=14)
    prompts = [prompt_of(np.random.default_rng(n), 9) for n in range(14)]
    ids = [session.submit(prompt, max_tokens=4 + n, ignore_eos=True) for n, prompt in enumerate(prompts)]
    session.step()
    assert session.steps[-1].running == 14
    while session.engine.has_work:
        before, running = runs.num_computed, session.steps[-1].running
        session.step()
        assert runs.num_computed - before <= max(running, CPU_DRAFT_ROWS)
    for n, (number, prompt) in enumerate(zip(ids, prompts, strict=True)):
        assert session.answers[number].tokens == _ignoring_ends(prompt, 4 + n)
    assert session.steps[-1].accepted > 0


def test_drafts_take_no_block_that_others_need_to_decode_on(start_session) -> None:
    """One block is free: not for drafts of the older, so that the younger has it for the end of its answer."""
    session, _ = _session(start_session, lambda _: Guesses(0.0, 52), blocks=13, sequences=2)
    older, younger = (prompt_of(np.random.default_rng(seed), length) for seed, length in ((1, 21), (2, 23)))
    session.submit(older, max_tokens=9, ignore_eos=True)
    session.submit(younger, max_tokens=4, ignore_eos=True)
    session.finish()
    assert not any(step.waiting for step in session.steps)
    assert session.steps[-1].drafted > 0


def test_without_drafts_nothing_is_told_of_them(start_session) -> None:
    """Figures of a model that does not draft stay at nothing."""
    session, _ = _session(start_session, None)
    session.ask(PROMPT, max_tokens=5, ignore_eos=True)
    assert (session.steps[-1].drafted, session.steps[-1].accepted) == (0, 0)
