"""The prefix cache: what is computed once is not computed again, and nobody is answered from another's text."""

from __future__ import annotations

import pytest
from guesses import Guesses
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import EVENTS, TREE, play
from stand_in import answer, start_engine

from cortex_neuron.engine.block_pool import START, BlockPool, Trail
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.models.loader import load

BLOCK = 4
SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip


def _session(
    start_session,
    blocks: int = 64,
    sequences: int = 8,
    step_tokens: int = 32,
    context: int | None = None,
    chance: float | None = None,
    overlaps: bool = False,
):
    """`chance`: with drafts, of which each token is right by it."""
    size = CacheSize(BLOCK, blocks, context or blocks * BLOCK)
    draft = None if chance is None else lambda _: Guesses(chance, size.context)
    engine, runs = start_engine(size, sequences, step_tokens, draft, overlaps)
    return start_session(engine), runs


# ---- any schedule


@settings(max_examples=300, deadline=None)
@given(
    schedule=st.lists(EVENTS, min_size=1, max_size=40),
    blocks=st.integers(24, 60),
    sequences=st.integers(1, 6),
    step_tokens=st.integers(1, 40),
    kind=st.sampled_from([None, "overlapping", 0.3, 0.8, 1.0]),
)
def test_any_schedule_gives_each_prompt_its_own_answer_and_leaves_every_block_free(
    start_session, schedule, blocks, sequences, step_tokens, kind
) -> None:
    """Shared beginnings, chunks, preemption, cancels, ends, faults, steps that overlap, drafts right and wrong; after
    each step all blocks are accounted for."""
    context = 24 * BLOCK
    chance, overlaps = (None, True) if kind == "overlapping" else (kind, False)
    session, runs = _session(start_session, blocks, sequences, step_tokens, context, chance, overlaps)
    asked = play(session, runs, schedule, lambda: _check_accounts(session.engine))
    for _ in range(3000):
        if not session.engine.has_work:
            break
        session.step()
        _check_accounts(session.engine)
    assert not session.engine.has_work, "no progress"
    assert session.engine._pool.num_free == blocks
    for number, (prompt, max_tokens) in asked.items():
        got, expected = session.answers[number], answer(prompt, max_tokens, context)
        assert got.tokens == expected[: len(got.tokens)]
        if got.finish in ("stop", "length"):
            assert got.tokens == expected


def _check_accounts(engine) -> None:
    """Free and held are all there are; each block has as many holders as there are tables that name it."""
    pool, seats = engine._pool, engine._seats
    held = [block for sequence in seats.sequences for block in seats.table(sequence)]
    assert pool.num_free + len(set(held)) == pool.num_blocks
    assert [held.count(block) for block in range(pool.num_blocks)] == pool._holders


# ---- what is saved


def test_what_was_asked_before_is_not_computed_again(start_session) -> None:
    """All full blocks of the first prompt and its answer but the last token's; the usage tells how many."""
    session, runs = _session(start_session)
    first = session.ask(TREE[0][:42], max_tokens=9)
    assert (first.first.cached_tokens, runs.num_computed) == (0, 42 + len(first.tokens) - 1)
    before = runs.num_computed
    again = session.ask(TREE[0][:42], max_tokens=1)
    assert (again.first.cached_tokens, runs.num_computed - before) == (40, 2)
    turn = TREE[0][:42] + first.tokens + [1, 2, 3]
    assert session.ask(turn, max_tokens=1).first.cached_tokens == (42 + len(first.tokens) - 1) // BLOCK * BLOCK


def test_the_last_token_of_a_prompt_is_always_computed(start_session) -> None:
    """A prompt of whole blocks, all of them cached: its logits are wanted."""
    session, _ = _session(start_session)
    session.ask(TREE[0][:40], max_tokens=1)
    assert session.ask(TREE[0][:40], max_tokens=3).first.cached_tokens == 36


def test_the_same_tokens_after_another_beginning_are_another_text(start_session) -> None:
    """A block is found by all that comes before it, too."""
    session, _ = _session(start_session)
    session.ask(TREE[0][:BLOCK] + TREE[2][:20], max_tokens=1)
    other = TREE[1][:BLOCK] + TREE[2][:20]
    got = session.ask(other, max_tokens=8)
    assert (got.first.cached_tokens, got.tokens) == (0, answer(other, 8, 256))


def test_a_prefix_that_many_ask_for_at_once_is_computed_once(start_session) -> None:
    """Eight that share 50 tokens and arrive together: the first computes them, the others wait for that, no longer."""
    session, runs = _session(start_session, blocks=128, sequences=9)
    ids = [session.submit(TREE[0][:50] + TREE[1][i : i + 6], max_tokens=1) for i in range(8)]
    alone = session.submit(TREE[2][:10], max_tokens=1)
    steps = 0
    while session.engine.has_work:
        session.step()
        steps += 1
        if steps == 1:
            assert session.answers[alone].tokens, "who does not share it is not held back"
    assert runs.num_computed == 56 + 7 * (56 - 48) + 10
    assert steps <= 5
    assert [session.answers[i].tokens for i in ids] == [
        answer(TREE[0][:50] + TREE[1][i : i + 6], 1, 512) for i in range(8)
    ]


def test_who_waits_for_another_goes_on_when_that_one_is_cancelled(start_session) -> None:
    """It computes the rest itself."""
    session, _ = _session(start_session, step_tokens=8, sequences=4)
    first, second = (session.submit(TREE[0][:60], max_tokens=2) for _ in range(2))
    session.step()
    session.step()
    assert (session.steps[-1].running, session.steps[-1].waiting) == (1, 1)
    session.engine.cancel([first])
    session.finish()
    assert session.answers[second].tokens == answer(TREE[0][:60], 2, 256)
    assert session.answers[second].first.cached_tokens == 16


def test_a_step_that_failed_leaves_nothing_to_be_found(start_session) -> None:
    """What it wrote is wrong; what earlier steps computed is right, and found."""
    session, runs = _session(start_session, step_tokens=16)
    session.submit(TREE[0][:60], max_tokens=2)
    session.step()
    runs.fails = True
    session.step()
    again = session.ask(TREE[0][:60], max_tokens=5)
    assert (again.first.cached_tokens, again.tokens) == (16, answer(TREE[0][:60], 5, 256))


def test_one_that_was_put_back_finds_what_is_left_of_its_blocks(start_session) -> None:
    """It gives way, and computes anew only what the other took; its answer tells nothing of it."""
    session, runs = _session(start_session, blocks=24, sequences=2)
    old = session.submit(TREE[0][:40], max_tokens=24, ignore_eos=True)
    young = session.submit(TREE[1][:40], max_tokens=20, ignore_eos=True)
    session.finish()
    assert any(step.waiting for step in session.steps[1:]), "the cache was large enough"
    assert session.answers[young].first.cached_tokens == 0
    assert len(session.answers[old].tokens) == 24
    assert runs.num_computed < 2 * 40 + 23 + 19 + 40


def test_what_a_sequence_computed_itself_before_it_was_put_back_is_not_told_as_cached(start_session) -> None:
    """It gave way while its prompt was read, and found part of that again: nobody had computed it for another."""
    session, runs = _session(start_session, blocks=20, sequences=2, step_tokens=4)
    old = session.submit(TREE[0][:40], max_tokens=16, ignore_eos=True)
    while not session.answers[old].tokens:
        session.step()
    young = session.submit(TREE[1][:36], max_tokens=2, ignore_eos=True)
    session.step()
    assert session.steps[-1].waiting == 0
    while not session.steps[-1].waiting:
        session.step()
    assert not session.answers[young].tokens
    before = runs.num_computed
    session.finish()
    assert session.answers[young].first.cached_tokens == 0
    assert session.answers[young].tokens == answer(TREE[1][:36], 2, 80)
    assert runs.num_computed - before < 36


# ---- the pool


def _name_chain(pool: BlockPool, blocks: list[int], text: bytes) -> None:
    mark = START
    for block, token in zip(blocks, text, strict=True):
        pool.publish(block, (mark, bytes([token])))
        mark = pool.mark(block)


def _found(pool: BlockPool, text: bytes) -> list[int]:
    return pool.follow(Trail(), lambda i: text[i : i + 1], len(text)).blocks


def test_what_was_given_back_longest_ago_goes_first_and_the_end_of_a_text_before_its_start() -> None:
    """Blocks with nothing in them before any of these."""
    pool = BlockPool(6)
    first, second = pool.take(2), pool.take(3)
    _name_chain(pool, first, b"ab")
    _name_chain(pool, second, b"xyz")
    pool.give_back(second)
    pool.give_back(first)
    assert pool.num_free == 6
    assert pool.take(3) == [5, second[2], second[1]]
    assert (_found(pool, b"ab"), _found(pool, b"xyz")) == (first, second[:1])
    assert pool.take(3) == [second[0], first[1], first[0]]


def test_what_is_held_is_not_taken_and_what_is_found_again_moves_back_in_the_line() -> None:
    """Use makes recent."""
    pool = BlockPool(4)
    first, second = pool.take(2), pool.take(2)
    _name_chain(pool, first, b"ab")
    _name_chain(pool, second, b"xy")
    pool.give_back(first)
    pool.give_back(second)
    pool.hold(_found(pool, b"ab"))
    assert pool.num_free == 2
    pool.give_back(first)
    assert pool.take(2) == [second[1], second[0]]


def test_the_second_of_two_equal_blocks_gives_way_to_the_first() -> None:
    """One copy is enough; whoever computed the other holds that one from then on."""
    pool = BlockPool(2)
    (one,), (two,) = pool.take(1), pool.take(1)
    assert pool.publish(one, (START, b"a")) == one
    assert pool.publish(two, (START, b"a")) == one
    assert pool.num_free == 1
    pool.give_back([one])
    pool.give_back([one])
    assert pool.num_free == 2


def test_a_trail_is_followed_from_where_it_ended_and_shortened_by_what_was_taken() -> None:
    """What it found is not looked up again."""
    pool, asked = BlockPool(3), []
    blocks = pool.take(3)
    _name_chain(pool, blocks[:2], b"ab")

    def piece(index: int) -> bytes:
        asked.append(index)
        return b"abc"[index : index + 1]

    trail = pool.follow(Trail(), piece, 3)
    assert (trail.blocks, asked) == (blocks[:2], [0, 1, 2])
    pool.publish(blocks[2], (trail.end, b"c"))
    assert (pool.follow(trail, piece, 3).blocks, asked) == (blocks, [0, 1, 2, 2])
    assert pool.num_idle(trail) == 0
    pool.give_back(blocks[1:])
    assert pool.num_idle(trail) == 2
    pool.take(1)
    assert pool.follow(trail, piece, 3).blocks == blocks[:2]


def test_what_is_forgotten_is_not_found_and_nothing_is_named_after_it() -> None:
    """A block that held NaN; one computed after it is no beginning of any text."""
    pool = BlockPool(3)
    blocks = pool.take(3)
    _name_chain(pool, blocks[:2], b"ab")
    pool.forget(blocks[:1])
    pool.publish(blocks[2], (pool.mark(blocks[0]), b"c"))
    assert _found(pool, b"ab") == _found(pool, b"c") == []


# ---- a real model


@pytest.mark.parametrize("sizes", [{}, {"blocks": 12, "sequences": 2}], ids=["roomy", "tight"])
def test_a_model_gives_the_same_with_a_cached_beginning_as_without(tmp_path, make_folder, start_with, sizes) -> None:
    """Tokens, and log-probabilities as near as arithmetic in another order is."""
    make_folder(tmp_path / "model", "llama", SMALL)
    model = load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 2, lambda *_: None)
    texts = [[4 + token for token in tree] for tree in TREE]
    texts += [texts[0][:40] + texts[1][:20], texts[0][:33] + texts[2][:9], texts[0]]
    session = start_with(model, step_tokens=24, **sizes)
    ids = [session.submit(text, max_tokens=12, logprobs=5, ignore_eos=True) for text in texts for _ in range(2)]
    session.finish()
    got = [session.answers[i] for i in ids]
    assert sum(each.first.cached_tokens for each in got) > 100
    for text, pair in zip(texts, zip(got[::2], got[1::2], strict=True), strict=True):
        alone = start_with(model, step_tokens=24).ask(text, max_tokens=12, logprobs=5, ignore_eos=True)
        for each in pair:
            assert each.tokens == alone.tokens
            for one, other in zip(each.logprobs, alone.logprobs, strict=True):
                assert one.top == pytest.approx(other.top, abs=2e-4)
