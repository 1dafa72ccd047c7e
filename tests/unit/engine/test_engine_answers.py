"""What an answer carries besides tokens: ends, times, log-probabilities, seeds."""

from __future__ import annotations

import pytest

from cortex_neuron.protocol.frames import SamplingParams

PROMPT = "capital"


@pytest.fixture
def capital(oracle):
    """A prompt whose greedy answer ends by itself after 8 tokens."""
    return next(p for p in oracle if p["name"] == PROMPT)


def test_the_end_token_ends_an_answer_and_is_in_it(start, capital) -> None:
    """`stop` with the eos token itself last."""
    answer = start().ask(capital["prompt_ids"], max_tokens=20)
    assert (answer.tokens, answer.finish) == (capital["token_ids"], "stop")


def test_ignore_eos_goes_on_to_the_length(start, capital) -> None:
    """For benchmarks: exactly max_tokens."""
    answer = start().ask(capital["prompt_ids"], max_tokens=12, ignore_eos=True)
    assert (len(answer.tokens), answer.finish) == (12, "length")


def test_the_context_ends_an_answer(start, capital) -> None:
    """37 tokens of prompt in a context of 42 leave five."""
    answer = start(context=42).ask(capital["prompt_ids"], max_tokens=100)
    assert (len(answer.tokens), answer.finish) == (5, "length")


def test_the_first_output_says_how_long_it_waited_and_computed(start, capital) -> None:
    """Queue and prefill times are on the first output, and only there."""
    session = start(sequences=1)
    first = session.submit(capital["prompt_ids"], max_tokens=3)
    second = session.submit(capital["prompt_ids"], max_tokens=3)
    session.finish()
    assert session.answers[second].first.queue_ms > session.answers[first].first.queue_ms
    assert session.answers[second].first.prefill_ms > 0
    assert session.answers[second].last.prefill_ms == 0
    assert [(s.running, s.waiting) for s in session.steps][:3] == [(1, 1), (1, 1), (0, 1)]


def test_logprobs_are_those_of_the_reference(start, oracle) -> None:
    """Every chosen token's, next to the best one that was not chosen."""
    prompt = oracle[1]
    answer = start().ask(prompt["prompt_ids"], max_tokens=10, logprobs=2)
    assert [p.chosen for p in answer.logprobs] == pytest.approx(prompt["logprobs"][:10], abs=2e-3)
    assert [p.top_ids[1] for p in answer.logprobs] == prompt["runner_up"][:10]


def test_a_seed_gives_the_same_answer_alone_in_a_batch_and_after_preemption(start, oracle) -> None:
    """Other seeds give other answers."""
    prompt = oracle[5]["prompt_ids"]
    sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=42)
    alone = start().ask(prompt, sampling, 12).tokens
    for sizes in ({}, {"blocks": 7, "sequences": 4}):
        session = start(**sizes)
        for other in range(3):
            session.submit(oracle[other]["prompt_ids"], SamplingParams(temperature=1.2, seed=other), 12)
        assert session.ask(prompt, sampling, 12).tokens == alone
    assert start().ask(prompt, SamplingParams(temperature=0.9, top_p=0.95, seed=43), 12).tokens != alone


def test_cancelling_what_waits_or_has_ended_is_no_error(start, capital) -> None:
    """A cancel races with the end of its sequence."""
    session = start(sequences=1)
    ended = session.submit(capital["prompt_ids"], max_tokens=1)
    session.step()
    running = session.submit(capital["prompt_ids"], max_tokens=4)
    waiting = session.submit(capital["prompt_ids"], max_tokens=4)
    session.step()
    session.engine.cancel([ended, waiting, 10_000_000])
    session.finish()
    assert len(session.answers[running].tokens) == 4
    assert session.answers[waiting].tokens == []
