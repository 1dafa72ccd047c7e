"""The scheduler's decisions, by example and over random loads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_neuron.engine.scheduler import Chunk, Limits, Newcomer, Plan, Running, Supply, plan_step, share

LIMITS = Limits(step_tokens=32, sequences=4, block_size=16)
Row = tuple[int, int, int]  # known, computed, blocks


def _decoding(tokens: int) -> Row:
    return tokens, tokens - 1, -(-(tokens - 1) // 16)


def _plan(
    running: Sequence[Row],
    waiting: Sequence[Newcomer],
    free: int,
    limits: Limits = LIMITS,
    computing: frozenset[object] = frozenset(),
) -> Plan:
    """Blocks that nobody shares."""
    rows = Running(*np.array(running, np.int32).reshape(-1, 3).T)
    supply = Supply(free, lambda youngest: sum(blocks for _, _, blocks in running[len(running) - youngest :]))
    return plan_step(rows, waiting, computing, supply, limits)


def _decode(plan: Plan) -> tuple[list[int], list[int]]:
    return plan.decode.tolist(), plan.growing.tolist()


def test_decoding_comes_first_and_prompts_take_the_rest_of_the_budget() -> None:
    """Two tokens for the two that decode, 30 for the prompt."""
    plan = _plan([_decoding(20), _decoding(33)], [Newcomer(100)], 50)
    assert _decode(plan) == ([0, 1], [1])
    assert (plan.admitted, plan.chunks, plan.preempted) == ((Chunk(0, 30, 2),), (), 0)


def test_nobody_overtakes_a_prompt_that_does_not_fit_yet() -> None:
    """First come, first served: the short prompt behind the long one waits, too."""
    plan = _plan([_decoding(20)], [Newcomer(400), Newcomer(5)], 10)
    assert (_decode(plan), plan.admitted) == (([0], []), ())


def test_a_prompt_is_admitted_only_when_all_of_it_fits() -> None:
    """The first chunk of 32 tokens would fit into 2 blocks; the 160 of the prompt take 10."""
    assert _plan([], [Newcomer(160)], 9).admitted == ()
    assert _plan([], [Newcomer(160)], 10).admitted == (Chunk(0, 32, 2),)


def test_a_prompt_is_admitted_beside_what_those_before_it_still_need() -> None:
    """The running prompt has 2 of its 6 blocks, so that of 9 free ones 5 are not spoken for."""
    half = [(96, 32, 2)]
    assert _plan(half, [Newcomer(96)], 9).admitted == ()
    assert _plan(half, [Newcomer(80)], 9).admitted == (Chunk(0, 0, 0),)


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    """The oldest goes on; the preempted one is not given a token in the same step."""
    plan = _plan([_decoding(17), _decoding(15), _decoding(17)], [Newcomer(1)], 0)
    assert (plan.preempted, _decode(plan), plan.admitted) == (1, ([0, 1], [0]), ())
    plan = _plan([_decoding(15), _decoding(17)], [], 0)
    assert (plan.preempted, _decode(plan)) == (1, ([0], []))


def test_as_many_give_way_as_it_takes_when_they_share_their_blocks() -> None:
    """The youngest two hold the same block: it is free once both have given it back."""
    rows = Running(*np.array([_decoding(17), _decoding(15), _decoding(15)], np.int32).T)
    plan = plan_step(rows, [], frozenset(), Supply(0, lambda youngest: youngest // 2), LIMITS)
    assert (plan.preempted, _decode(plan)) == (2, ([0], [0]))


def test_two_prompts_that_block_each_other_are_untied() -> None:
    """Both are half computed and no block is free: the older one goes on."""
    plan = _plan([(64, 32, 2), (64, 32, 2)], [], 0)
    assert (plan.preempted, plan.chunks) == (1, (Chunk(0, 32, 2),))


def test_a_prompt_without_blocks_waits_for_the_older_that_decode() -> None:
    """Nobody is younger than it; those that decode end some time, and then it goes on."""
    plan = _plan([_decoding(15), (64, 32, 2)], [], 0)
    assert (plan.preempted, _decode(plan), plan.chunks) == (0, ([0], []), ())


def test_no_more_sequences_run_than_there_are_seats() -> None:
    """Four seats, three taken: one is admitted."""
    plan = _plan([_decoding(5)] * 3, [Newcomer(3), Newcomer(3)], 50)
    assert (plan.decode.tolist(), plan.admitted) == ([0, 1, 2], (Chunk(0, 3, 1),))


def test_only_a_step_that_is_small_has_drafts() -> None:
    """What decodes and what is read of prompts is counted first; and never more than a step may have."""
    limits = Limits(32, 8, 16, draft_rows=12)
    assert _plan([_decoding(20)] * 3, [], 50, limits).drafts == 9
    assert _plan([_decoding(20)] * 3, [Newcomer(5)], 50, limits).drafts == 4
    assert _plan([_decoding(20)] * 3, [Newcomer(40)], 50, limits).drafts == 0
    assert _plan([_decoding(20)] * 3, [], 50, Limits(4, 8, 16, draft_rows=12)).drafts == 1
    assert _plan([_decoding(20)] * 3, [], 50).drafts == 0


# ---- sharing the budget


def test_a_short_prompt_does_not_wait_for_all_the_chunks_of_a_long_one() -> None:
    """Half of the step stays the long one's, which is older; the short one takes what it needs of the other half."""
    assert share(32, [1000, 10]) == [22, 10]
    assert share(32, [1000, 500, 20]) == [16, 0, 16]
    plan = _plan([(1000, 32, 2)], [Newcomer(10)], 500)
    assert (plan.chunks, plan.admitted) == ((Chunk(0, 22, 2),), (Chunk(0, 10, 1),))


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    """However many there are, the oldest has half of each step."""
    assert share(32, [1000, *[8] * 20])[0] == 16


def test_equal_prompts_are_served_one_after_the_other() -> None:
    """To serve them by turns would make all of them as late as the last."""
    assert share(32, [100, 100, 100]) == [32, 0, 0]
    assert share(32, [4, 100, 100]) == [4, 28, 0]


@given(st.integers(0, 300), st.lists(st.integers(1, 200), max_size=9))
def test_the_budget_is_spent_and_no_more(budget: int, left: list[int]) -> None:
    """And nobody gets more than it has left."""
    tokens = share(budget, left)
    assert sum(tokens) == min(budget, sum(left))
    assert all(0 <= given <= most for given, most in zip(tokens, left, strict=True))
    assert not left or tokens[0] >= min(left[0], budget // 2)


# ---- what is in the cache already


def test_what_is_cached_is_not_computed_and_what_is_idle_of_it_is_no_longer_free() -> None:
    """Ten blocks, eight of them cached, five of those nobody's: two new ones beside these five."""
    one = Newcomer(160, cached=128, idle=5)
    assert _plan([], [one], 6).admitted == ()
    assert _plan([], [one], 7).admitted == (Chunk(0, 32, 2),)


def test_a_newcomer_is_held_back_while_another_computes_what_it_would_begin_with() -> None:
    """Who is not concerned passes; of those that begin alike, one is admitted and the others find it computed."""
    alike, other = Newcomer(64, begins_with="a"), Newcomer(5, begins_with="b")
    plan = _plan([(64, 32, 2)], [alike, other], 50, computing=frozenset("a"))
    assert [chunk.place for chunk in plan.admitted] == [1]
    assert [chunk.place for chunk in _plan([], [alike, alike, other], 50).admitted] == [0, 2]


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
    waiting = [(i, prompt) for i, (prompt, _) in enumerate(requests)]
    running: list[tuple[int, Row]] = []
    free = blocks
    for _ in range(20_000):
        if not running and not waiting:
            break
        plan = _plan([row for _, row in running], [Newcomer(known) for _, known in waiting], free, limits)
        steps = [Chunk(place, 1, int(place in plan.growing)) for place in plan.decode.tolist()]
        steps += plan.chunks
        assert steps or any(chunk.tokens for chunk in plan.admitted)
        assert sum(c.tokens for c in (*steps, *plan.admitted)) <= step_tokens
        assert not running or 0 in [c.place for c in steps]
        assert [c.place for c in plan.admitted] == list(range(len(plan.admitted))), "overtaken"
        admitted = [(chunk, waiting.pop(0)) for chunk in plan.admitted]
        for _ in range(plan.preempted):
            number, (known, _, held) = running.pop()
            free += held
            waiting.insert(0, (number, known))
        steps += [Chunk(len(running) + i, c.tokens, c.new_blocks) for i, (c, _) in enumerate(admitted)]
        running += [(number, (known, 0, 0)) for _, (number, known) in admitted]
        assert len(running) <= seats
        for chunk in steps:
            number, (known, computed, held) = running[chunk.place]
            free, held, computed = free - chunk.new_blocks, held + chunk.new_blocks, computed + chunk.tokens
            assert free >= 0
            assert computed <= min(known, held * block_size)
            if computed == known:
                left[number] -= 1
                known += 1
            running[chunk.place] = (number, (known, computed, held))
        free += sum(held for number, (_, _, held) in running if not left[number])
        running = [one for one in running if left[one[0]]]
    assert not any(left.values())
    assert free == blocks
