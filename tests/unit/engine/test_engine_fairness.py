"""Long prompts, short ones and those that decode, side by side in one engine."""

from __future__ import annotations

import numpy as np
from stand_in import prompt_of, start_engine

from cortex_neuron.engine.kv_cache import CacheSize

RNG = np.random.default_rng(5)
SIZE = CacheSize(block_size=4, num_blocks=2000, context=4000)


def test_a_short_prompt_is_answered_while_a_long_one_is_read(start_session) -> None:
    """Its first token comes with the step after it came, and not after the long one's hundred steps."""
    session = start_session(start_engine(SIZE, 4, 32)[0])
    long = session.submit(prompt_of(RNG, 3200), max_tokens=2)
    session.step()
    short = session.submit(prompt_of(RNG, 12), max_tokens=2, ignore_eos=True)
    session.step()
    assert session.answers[short].tokens
    session.finish()
    assert session.answers[long].tokens


def test_a_long_prompt_is_read_however_many_short_ones_come(start_session) -> None:
    """It has half of each step: 800 tokens are 50 steps of 16, though a short one comes with every step."""
    session = start_session(start_engine(SIZE, 8, 32)[0])
    long = session.submit(prompt_of(RNG, 800), max_tokens=1)
    for _ in range(55):
        session.submit(prompt_of(RNG, 25), max_tokens=1)
        session.step()
    assert session.answers[long].tokens


def test_who_decodes_gets_a_token_in_each_step_and_prompts_get_on_beside_them(start_session) -> None:
    """Even where as many decode as a step has tokens."""
    session = start_session(start_engine(SIZE, 4, 4)[0])
    decoding = [session.submit(prompt_of(RNG, 3), max_tokens=60, ignore_eos=True) for _ in range(3)]
    for _ in range(6):
        session.step()
    assert all(session.answers[number].tokens for number in decoding)
    prompt = session.submit(prompt_of(RNG, 40), max_tokens=1)
    for _ in range(20):
        assert set(decoding) <= {output.id for output in session.step().outputs}
    assert session.answers[prompt].tokens
