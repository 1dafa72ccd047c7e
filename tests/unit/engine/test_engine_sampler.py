"""The sampler: what each parameter promises, alone and in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_neuron.engine import penalties, sampler
from cortex_neuron.engine.sampler import Drawn, NotFinite, sample
from cortex_neuron.engine.sequence import Sequence
from cortex_neuron.protocol.frames import SamplingParams

VOCAB = 50


def _sequence(
    prompt: list[int] | None = None, output: list[int] | None = None, logprobs: int | None = None, **params: Any
):
    sampling = SamplingParams(**params)
    generator = torch.Generator()
    generator.manual_seed(sampling.seed or 0)
    prompt = [1] if prompt is None else prompt
    return Sequence(
        id=1,
        buffer=np.array(prompt + (output or []), np.int32),
        length=len(prompt) + len(output or []),
        prompt_length=len(prompt),
        max_length=1000,
        sampling=sampling,
        generator=generator,
        ignore_eos=False,
        num_logprobs=logprobs,
        submitted_s=0.0,
        turn=0.0,
    )


def _tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    drawn = sample(logits, sequences)
    assert all(isinstance(d, Drawn) for d in drawn)
    return [d.token for d in drawn]


def _logits(rows: int = 1, seed: int = 0, size: int = VOCAB) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def _frequencies(row: torch.Tensor, draws: int = 4000, **params: Any) -> torch.Tensor:
    one = _sequence(seed=11, **params)
    tokens = torch.tensor(_tokens(row.expand(draws, -1), [one] * draws))
    return tokens.bincount(minlength=row.shape[-1]) / draws


SAMPLING = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.1, 3),
        "top_k": st.integers(0, VOCAB + 5),
        "top_p": st.floats(0.05, 1),
        "min_p": st.floats(0, 0.5),
        "seed": st.integers(0, 2**31),
        "repetition_penalty": st.floats(0.5, 2),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
    }
)


@settings(max_examples=60, deadline=None)
@given(params=st.lists(SAMPLING, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_a_row_draws_the_same_alone_and_in_any_batch(params, seed) -> None:
    """A seeded sequence's token depends on its own logits and parameters only."""
    logits = _logits(len(params), seed)
    history = {"prompt": [3, 4, 4], "output": [5, 5, 6]}
    together = _tokens(logits, [_sequence(**history, **p) for p in params])
    alone = [_tokens(logits[i : i + 1], [_sequence(**history, **p)])[0] for i, p in enumerate(params)]
    assert together == alone


@settings(max_examples=60, deadline=None)
@given(params=SAMPLING, seed=st.integers(0, 1000))
def test_the_first_choice_is_greedy_whether_by_top_k_or_temperature(params, seed) -> None:
    """top_k=1 and temperature=0 give the best token after penalties."""
    logits = _logits(1, seed)
    by_top_k = _tokens(logits, [_sequence(output=[5], **{**params, "top_k": 1})])
    assert by_top_k == _tokens(logits, [_sequence(output=[5], **{**params, "temperature": 0})])


@settings(max_examples=40, deadline=None)
@given(params=SAMPLING, seed=st.integers(0, 1000))
def test_looking_at_the_best_tokens_first_changes_nothing(params, seed) -> None:
    """A filtered draw over a few candidates is the one over the whole sorted vocabulary."""
    logits = _logits(1, seed, 300)
    whole = _tokens(logits, [_sequence(**params)])
    before, sampler.NUM_CANDIDATES = sampler.NUM_CANDIDATES, 8
    try:
        assert _tokens(logits, [_sequence(**params)]) == whole
    finally:
        sampler.NUM_CANDIDATES = before


def test_draws_follow_the_softmax() -> None:
    """Without filters, tokens come as often as their probability says."""
    row = _logits(seed=4)[0]
    expected = (row / 1.5).softmax(-1)
    assert (_frequencies(row, temperature=1.5) - expected).abs().max() < 0.03


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.45}, [0]),
        ({"top_p": 0.75}, [0, 1]),
        ({"min_p": 0.3}, [0, 1, 2]),
        ({"top_k": 2, "top_p": 0.6}, [0]),  # of the two that top_k leaves, the first has 0.625
        ({"top_k": -1}, [0, 1, 2, 3]),
    ],
)
def test_filters_keep_what_they_promise(params, kept) -> None:
    """Over probabilities 0.5, 0.3, 0.15 and 0.05: the tokens kept, and in proportion."""
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    expected = torch.zeros(4)
    expected[kept] = probs[kept] / probs[kept].sum()
    assert (_frequencies(probs.log(), **params) - expected).abs().max() < 0.03


def test_penalties_have_openais_and_vllms_meaning() -> None:
    """Repetition counts prompt and output, presence and frequency the output only."""
    logits = torch.tensor([[2.0, -2.0, 1.0, 3.0]])
    history = {"prompt": [0], "output": [1, 1, 2]}
    cases = {
        ("repetition_penalty", 2.0): [1.0, -4.0, 0.5, 3.0],
        ("presence_penalty", 0.5): [2.0, -2.5, 0.5, 3.0],
        ("frequency_penalty", 0.5): [2.0, -3.0, 0.5, 3.0],
    }
    for (name, value), expected in cases.items():
        penalised = penalties.penalise(logits, [_sequence(**history, **{name: value})])
        assert penalised.tolist() == [expected], name
    assert logits.tolist() == [[2.0, -2.0, 1.0, 3.0]], "the model's own logits were changed"


def test_logit_bias_forces_and_forbids() -> None:
    """100 makes a token certain, -100 impossible, for the row that asks and no other."""
    logits = _logits(3)
    best = logits.argmax(-1).tolist()
    forced = _sequence(temperature=1.0, logit_bias={7: 100.0})
    forbidden = _sequence(temperature=0, logit_bias={best[1]: -100.0})
    tokens = _tokens(logits, [forced, forbidden, _sequence(temperature=0)])
    assert tokens[0] == 7
    assert tokens[1] == logits[1].topk(2).indices[1].item()
    assert tokens[2] == best[2]


def test_logprobs_are_the_models_own() -> None:
    """Natural logarithms before temperature, penalties and filters; as many alternatives as asked for."""
    logits = _logits(3)
    sequences = [
        _sequence(temperature=5.0, top_k=3, logit_bias={9: 100.0}, logprobs=4),
        _sequence(temperature=0),
        _sequence(temperature=0, logprobs=0),
    ]
    first, second, third = sample(logits, sequences)
    expected = logits.log_softmax(-1)
    assert first.token == 9
    assert first.logprobs.chosen == pytest.approx(expected[0, 9].item())
    assert first.logprobs.top_ids == expected[0].topk(4).indices.tolist()
    assert first.logprobs.top == pytest.approx(expected[0].topk(4).values.tolist())
    assert second.logprobs is None
    assert third.logprobs.top_ids == []
    assert third.logprobs.chosen == pytest.approx(expected[2].max().item())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_named_and_the_others_are_drawn(bad) -> None:
    """Never a token from NaN (case T12)."""
    logits = _logits(3)
    logits[1, 4] = bad
    sequences = [_sequence(temperature=1.0, seed=i, top_p=0.9) for i in range(3)]
    results = sample(logits, sequences)
    assert isinstance(results[1], NotFinite)
    assert f"of {VOCAB}" in results[1].message
    assert results[1].nan + results[1].inf == 1
    alone = [_tokens(logits[i : i + 1], [_sequence(temperature=1.0, seed=i, top_p=0.9)])[0] for i in (0, 2)]
    assert [results[0].token, results[2].token] == alone


def test_large_finite_logits_are_not_taken_for_infinite() -> None:
    """The quick check by sums may overflow; the row is then looked at."""
    logits = torch.full((1, 8), 3e38)
    assert isinstance(sample(logits, [_sequence(temperature=0)])[0], Drawn)


def test_a_token_without_probability_is_never_drawn() -> None:
    """Not even by a share of exactly 0 or 1."""
    weights = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    for share in (0.0, 1.0):
        assert sampler._invert(weights, torch.tensor([[share]], dtype=torch.float64)).item() in (1, 2)
