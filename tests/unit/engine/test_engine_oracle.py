"""The demo model gives the reference's answers, whatever the batch, the chunks and the cache."""

from __future__ import annotations

import pytest
import torch

TOKENS = 20


@pytest.fixture(params=["native", "torch"])
def start(request, start_with):
    """Sessions of the demo model, as either computes it."""
    if request.param == "torch":
        model = request.getfixturevalue("torch_demo_model")
    else:
        request.getfixturevalue("native_kernels")
        model = request.getfixturevalue("demo_model")
    return lambda **sizes: start_with(model, **sizes)


def _check(oracle, parts, answers, tokens=TOKENS) -> None:
    wrong = [parts(prompt, answer.tokens, tokens) for prompt, answer in zip(oracle, answers, strict=True)]
    assert [w for w in wrong if w] == []


def test_each_prompt_alone_gets_the_reference_answer(start, oracle, parts) -> None:
    """One at a time, to its end or 16 tokens."""
    session = start()
    _check(oracle, parts, [session.ask(p["prompt_ids"], max_tokens=16) for p in oracle], 16)


def test_thirty_two_prompts_at_once_get_the_reference_answers(start, oracle, parts) -> None:
    """A full batch, whole answers; an answer that ends says why."""
    session = start()
    prompts = [oracle[i % len(oracle)] for i in range(32)]
    ids = [session.submit(p["prompt_ids"], max_tokens=64) for p in prompts]
    session.finish()
    answers = [session.answers[i] for i in ids]
    _check(prompts, parts, answers, 64)
    for prompt, answer in zip(prompts, answers, strict=True):
        if answer.tokens == prompt["token_ids"]:
            assert answer.finish == prompt["finish"]
    assert session.steps[-1].kv_blocks_free == 1024


def test_prompts_cut_into_chunks_get_the_reference_answers(start, oracle, parts) -> None:
    """With 16 tokens a step, prompts take several steps, mixed with the others' decoding."""
    session = start(sequences=10, step_tokens=16)
    ids = [session.submit(p["prompt_ids"], max_tokens=TOKENS) for p in oracle]
    session.finish()
    _check(oracle, parts, [session.answers[i] for i in ids])


def test_cancelling_some_leaves_the_others_right(start, oracle, parts) -> None:
    """Cancelled sequences say nothing more, and give their blocks back within a step."""
    session = start(sequences=8)
    ids = [session.submit(p["prompt_ids"], max_tokens=TOKENS) for p in oracle]
    for _ in range(6):
        session.step()
    gone = ids[1::2]
    session.engine.cancel(gone)
    before = {i: len(session.answers[i].tokens) for i in gone}
    session.finish()
    assert {i: len(session.answers[i].tokens) for i in gone} == before
    _check(oracle[::2], parts, [session.answers[i] for i in ids[::2]])
    assert session.steps[-1].kv_blocks_free == 1024


def test_a_cache_too_small_for_all_preempts_and_still_answers_right(start, oracle, parts, monkeypatch) -> None:
    """The youngest are thrown out and computed again."""
    session = start(blocks=16, sequences=10)
    preempted = []
    real = type(session.engine)._preempt
    monkeypatch.setattr(type(session.engine), "_preempt", lambda self, s: (preempted.append(s.id), real(self, s)))
    ids = [session.submit(p["prompt_ids"], max_tokens=TOKENS) for p in oracle]
    session.finish()
    assert preempted, "the cache was not small enough to test anything"
    _check(oracle, parts, [session.answers[i] for i in ids])
    assert session.steps[-1].kv_blocks_free == 16


def test_the_comparison_with_the_reference_can_fail(start, oracle, parts) -> None:
    """A cache whose keys are disturbed gives answers that part from the reference."""
    session = start()
    number = session.submit(oracle[1]["prompt_ids"], max_tokens=TOKENS)
    session.step()
    for layer in session.engine.cache.keys:
        layer += torch.randn(layer.shape[-1]) * 2
    session.finish()
    assert parts(oracle[1], session.answers[number].tokens, TOKENS) is not None


def test_repetition_and_near_identical_keys_stay_finite_and_the_same_in_any_batch(start, oracle) -> None:
    """Prompts of one token over and over, the worst case for attention, alone and beside others (case T12)."""
    prompts = [[504] * 120, [504, 28] * 60, [504] * 119 + [28]]
    alone = [start().ask(p, max_tokens=8) for p in prompts]
    session = start(step_tokens=48)
    ids = [session.submit(p, max_tokens=8) for p in [*prompts, oracle[0]["prompt_ids"]]]
    session.finish()
    assert [session.answers[i].tokens for i in ids[:3]] == [a.tokens for a in alone]
    assert [a.finish for a in alone] == ["length"] * 3
