"""The scheduler's decisions, by example and over random loads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_neuron.engine.scheduler import Candidate, Chunk, Limits, plan_step

LIMITS = Limits(step_tokens=32, sequences=4, block_size=16)


def _new(number: int, prompt: int) -> Candidate:
    return Candidate(number, known=prompt, computed=0, blocks=0)


def _decoding(number: int, tokens: int) -> Candidate:
    return Candidate(number, known=tokens, computed=tokens - 1, blocks=-(-(tokens - 1) // 16))


def test_decoding_comes_first_and_prompts_take_the_rest_of_the_budget() -> None:
    """Two tokens for the two that decode, 30 for the prompt."""
    plan = plan_step([_decoding(1, 20), _decoding(2, 33)], [_new(3, 100)], 50, LIMITS)
    assert plan.chunks == (Chunk(1, 1, 0), Chunk(2, 1, 1), Chunk(3, 30, 2))
    assert plan.preempted == ()


def test_nobody_overtakes_a_prompt_that_does_not_fit_yet() -> None:
    """First come, first served: the short prompt behind the long one waits, too."""
    plan = plan_step([_decoding(1, 20)], [_new(2, 400), _new(3, 5)], 10, LIMITS)
    assert [chunk.id for chunk in plan.chunks] == [1]


def test_a_prompt_is_admitted_only_when_all_of_it_fits() -> None:
    """The first chunk of 32 tokens would fit into 2 blocks; the 160 of the prompt take 10."""
    assert plan_step([], [_new(1, 160)], 9, LIMITS).chunks == ()
    assert plan_step([], [_new(1, 160)], 10, LIMITS).chunks == (Chunk(1, 32, 2),)


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    """The oldest goes on; the preempted one is not given a token in the same step."""
    plan = plan_step([_decoding(1, 17), _decoding(2, 15), _decoding(3, 17)], [_new(4, 1)], 0, LIMITS)
    assert plan.preempted == (3,)
    assert plan.chunks == (Chunk(1, 1, 1), Chunk(2, 1, 0))
    plan = plan_step([_decoding(1, 15), _decoding(2, 17)], [], 0, LIMITS)
    assert (plan.preempted, plan.chunks) == ((2,), (Chunk(1, 1, 0),))


def test_two_prompts_that_block_each_other_are_untied() -> None:
    """Both are half computed and no block is free: the older one goes on."""
    half = [Candidate(1, known=64, computed=32, blocks=2), Candidate(2, known=64, computed=32, blocks=2)]
    plan = plan_step(half, [], 0, LIMITS)
    assert (plan.preempted, plan.chunks) == ((2,), (Chunk(1, 32, 2),))


def test_no_more_sequences_run_than_there_are_seats() -> None:
    """Four seats, three taken: one is admitted."""
    running = [_decoding(i, 5) for i in (1, 2, 3)]
    plan = plan_step(running, [_new(4, 3), _new(5, 3)], 50, LIMITS)
    assert [c.id for c in plan.chunks] == [1, 2, 3, 4]


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 60)), min_size=1, max_size=12),
    step_tokens=st.integers(4, 64),
    seats=st.integers(1, 4),
    blocks=st.integers(12, 40),
    block_size=st.sampled_from([16, 24]),
)
def test_every_load_is_served_within_the_limits_and_in_finite_time(
    requests, step_tokens, seats, blocks, block_size
) -> None:
    """Budget, seats and blocks are kept in each step; each sequence gets all its tokens; the oldest always moves."""
    limits = Limits(step_tokens, seats, block_size)
    left = {i: output for i, (_, output) in enumerate(requests)}
    waiting = [_new(i, prompt) for i, (prompt, _) in enumerate(requests)]
    running: list[Candidate] = []
    free = blocks
    for _ in range(20_000):
        if not running and not waiting:
            break
        plan = plan_step(running, waiting, free, limits)
        assert plan.chunks
        assert sum(c.tokens for c in plan.chunks) <= step_tokens
        assert min(c.id for c in (*running, *waiting)) in [c.id for c in plan.chunks] or len(running) > step_tokens
        for victim in plan.preempted:
            one = next(c for c in running if c.id == victim)
            running.remove(one)
            free += one.blocks
            waiting.insert(0, Candidate(one.id, one.known, 0, 0))
        for chunk in plan.chunks:
            one = next(c for c in (*running, *waiting) if c.id == chunk.id)
            free -= chunk.new_blocks
            assert free >= 0
            computed = one.computed + chunk.tokens
            assert computed <= one.known
            assert (one.blocks + chunk.new_blocks) * block_size >= computed
            known = one.known
            if computed == known:
                left[one.id] -= 1
                known += 1
            new = Candidate(one.id, known, computed, one.blocks + chunk.new_blocks)
            if one in waiting:
                assert waiting[0] == one, "overtaken"
                waiting.remove(one)
                running.append(new)
            else:
                running[running.index(one)] = new
        assert len(running) <= seats
        for done in [c for c in running if left[c.id] == 0]:
            running.remove(done)
            free += done.blocks
    assert not any(left.values())
    assert free == blocks
