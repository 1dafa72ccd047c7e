"""Drafts by a draft model: right wherever that says the same, for its cache follows the model's through everything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from schedules import EVENTS, TREE, play
from stand_in import VOCAB, StandIn, answer, prompt_of, start_drafted
from torch.nn.functional import pad

from cortex_neuron.engine import draft_part
from cortex_neuron.engine.draft_model import Blanks
from cortex_neuron.engine.engine import CPU_DRAFT_ROWS
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.part import bring_up
from cortex_neuron.engine.prompt_lookup import LONGEST_PAUSE
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import Load, Speculation

BLOCK = 4
CONFIG = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
MB = 1 << 20


def _session(start_session, blocks: int = 64, sequences: int = 4, step_tokens: int = 32, **more):
    size = CacheSize(BLOCK, blocks, min(24, blocks) * BLOCK)
    engine, runs, guesses = start_drafted(size, sequences, step_tokens, **more)
    return start_session(engine), runs, guesses


def _says(prompt: list[int], length: int, context: int = 24 * BLOCK) -> list[int]:
    """What the stand-in says, on and on."""
    said: list[int] = []
    while len(said) < min(length, context - len(prompt)):
        said += answer(prompt + said, length - len(said), context)
    return said


# ---- where both say the same


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.lists(EVENTS, min_size=1, max_size=30),
    blocks=st.integers(24, 60),
    sequences=st.integers(1, 6),
    step_tokens=st.integers(1, 40),
)
def test_a_model_that_says_the_same_is_always_right(start_session, schedule, blocks, sequences, step_tokens) -> None:
    """Shared beginnings, chunks, preemption, cancels, faults: no draft is wrong, so no block of its cache is."""
    session, runs, _ = _session(start_session, blocks, sequences, step_tokens)
    asked = play(session, runs, schedule, ignore_eos=True)
    session.finish()
    assert session.engine._pool.num_free == blocks
    for number, (prompt, max_tokens) in asked.items():
        got = session.answers[number].tokens
        assert got == _says(prompt, max_tokens)[: len(got)]
    if session.steps:
        assert session.steps[-1].accepted == session.steps[-1].drafted


def test_each_step_gives_what_was_drafted_and_one_more(start_session) -> None:
    """Drafts of 2, then of 4: 21 tokens after the first, in 5 steps; and the draft model computes each token once."""
    session, _, guesses = _session(start_session)
    got = session.ask(TREE[0][:20], max_tokens=22, ignore_eos=True)
    assert got.tokens == _says(TREE[0][:20], 22)
    assert (len(session.steps), session.steps[-1].drafted) == (6, 16)
    assert guesses.num_computed <= 20 + 22


def test_a_block_that_another_text_has_taken_is_computed_anew(start_session) -> None:
    """The draft model had all of it; then it was given to a text that nothing was drafted for, and found by another."""
    session, _, guesses = _session(start_session, blocks=16)
    session.ask(TREE[0][:50], max_tokens=8, ignore_eos=True)
    assert session.engine._draft_model._is_full.sum() >= 12
    session.ask(TREE[1][:58], max_tokens=1, ignore_eos=True)
    assert session.engine._draft_model._is_full.sum() <= 1
    before = guesses.num_computed
    got = session.ask([*TREE[1][:49], 1, 2], max_tokens=8, ignore_eos=True)
    assert (got.first.cached_tokens, guesses.num_computed - before >= 51) == (48, True)
    assert got.tokens == _says([*TREE[1][:49], 1, 2], 8)
    assert session.steps[-1].accepted == session.steps[-1].drafted


def test_a_block_that_is_found_in_the_middle_of_an_answer_is_computed_where_it_was_not(start_session) -> None:
    """This very text was asked for before, and nothing drafted: those blocks take the place of ours."""
    session, _, _ = _session(start_session)
    said = _says(TREE[0][:20], 40)
    session.ask([*TREE[0][:20], *said[:30]], max_tokens=1, ignore_eos=True)
    assert session.ask(TREE[0][:20], max_tokens=40, ignore_eos=True).tokens == said
    assert session.steps[-1].accepted == session.steps[-1].drafted > 0


def test_what_was_taken_in_for_one_text_is_there_for_those_that_begin_like_it(start_session) -> None:
    """Of 48 tokens in common the second computes none again in either cache."""
    session, _, guesses = _session(start_session)
    session.ask(TREE[0][:50], max_tokens=4, ignore_eos=True)
    before = guesses.num_computed
    assert session.ask([*TREE[0][:50], 1, 2], max_tokens=4, ignore_eos=True).first.cached_tokens == 48
    assert guesses.num_computed - before <= 4 + 4
    assert session.steps[-1].accepted == session.steps[-1].drafted


def test_a_long_text_is_taken_in_by_parts(start_session) -> None:
    """60 tokens by 16 a step: no step computes more, and there are drafts once it has all."""
    session, _, guesses = _session(start_session, step_tokens=16)
    number = session.submit(TREE[0], max_tokens=30, ignore_eos=True)
    most = 0
    while session.engine.has_work:
        before = guesses.num_computed
        session.step()
        most = max(most, guesses.num_computed - before)
    assert 0 < most <= 16 + 4
    assert session.answers[number].tokens == _says(TREE[0], 30)
    assert session.steps[-1].accepted == session.steps[-1].drafted > 0


def test_a_crowd_costs_the_draft_model_nothing(start_session) -> None:
    """Where a step has no drafts, it computes nothing; those that are left in the end have some."""
    session, _, guesses = _session(start_session, blocks=300, sequences=CPU_DRAFT_ROWS + 1, step_tokens=400)
    texts = [prompt_of(np.random.default_rng(n), 9) for n in range(CPU_DRAFT_ROWS + 1)]
    ids = [session.submit(text, max_tokens=8 + n, ignore_eos=True) for n, text in enumerate(texts)]
    while not session.steps or session.steps[-1].running > CPU_DRAFT_ROWS:
        assert guesses.num_computed == 0
        session.step()
    session.finish()
    assert [session.answers[i].tokens for i in ids] == [_says(text, 8 + n) for n, text in enumerate(texts)]
    assert session.steps[-1].accepted == session.steps[-1].drafted > 0


def test_beyond_its_own_context_a_draft_model_drafts_nothing(start_session) -> None:
    """It may have been made for shorter texts than the model."""
    session, _, _ = _session(start_session, context=30)
    got = session.ask(TREE[0][:20], max_tokens=40, ignore_eos=True)
    assert got.tokens == _says(TREE[0][:20], 40)
    assert 0 < session.steps[-1].drafted <= 10
    assert len(Blanks(8, 30).propose(np.zeros(29, np.int32), 8)) == 1


# ---- where it does not


def test_a_draft_model_that_knows_nothing_changes_no_answer_and_is_seldom_asked(start_session) -> None:
    """Its token is never the model's: it is tried ever less, and the answer comes as it would."""
    session, _, guesses = _session(start_session, blocks=24, tokens=8)
    guesses.run = lambda batch: StandIn.run(guesses, batch).roll(1, -1)
    got = session.ask(TREE[0][:5], max_tokens=80, ignore_eos=True)
    assert got.tokens == _says(TREE[0][:5], 80)
    assert session.steps[-1].accepted == 0
    assert 0 < session.steps[-1].drafted < 80 // 4 < LONGEST_PAUSE


@pytest.mark.parametrize("wrong_at", [20, 21, 23, 24, 25])
def test_a_wrong_draft_is_not_what_the_next_one_goes_on_from(start_session, wrong_at) -> None:
    """It errs once, after this token: what it has computed beyond is computed again, and what comes next is right."""
    session, _, guesses = _session(start_session)

    def erring(batch):
        logits = StandIn.run(guesses, batch)
        return logits.roll(1, -1) if wrong_at in batch.positions[batch.wanted].tolist() else logits

    guesses.run = erring
    got = session.ask(TREE[0][:20], max_tokens=40, ignore_eos=True)
    assert got.tokens == _says(TREE[0][:20], 40)
    assert 1 <= session.steps[-1].drafted - session.steps[-1].accepted <= 4
    assert session.steps[-1].accepted > 20


def test_a_draft_model_that_fails_has_guessed_wrong(start_session) -> None:
    """A fault of its step ends nobody's answer; what it wrote half is computed again (case T5)."""
    session, _, guesses = _session(start_session)
    number = session.submit(TREE[0][:20], max_tokens=22, ignore_eos=True)
    session.step()
    guesses.fails = True
    session.finish()
    assert not guesses.fails
    assert session.answers[number].tokens == _says(TREE[0][:20], 22)
    assert session.steps[-1].drafted - session.steps[-1].accepted == 2


def test_ids_that_the_model_lacks_are_never_drafted(start_session) -> None:
    """The draft model's vocabulary may be padded: the likeliest of the ids that both have is drafted."""
    session, _, guesses = _session(start_session)

    def padded(batch):
        return pad(StandIn.run(guesses, batch), (0, 3), value=2.0)

    guesses.run = padded
    got = session.ask(TREE[0][:20], max_tokens=22, ignore_eos=True)
    assert got.tokens == _says(TREE[0][:20], 22)
    assert session.steps[-1].accepted == session.steps[-1].drafted > 0


def test_ids_that_the_draft_model_lacks_are_never_read(start_session) -> None:
    """The other way round: what it makes of them is a bad draft, and no error."""
    session, _, guesses = _session(start_session)
    draft_model = session.engine._draft_model
    draft_model._model = dataclasses.replace(draft_model._model, vocab_size=VOCAB - 10)
    read: list[int] = []
    guesses.run = lambda batch: (read.append(int(batch.tokens.max())), StandIn.run(guesses, batch))[1]
    text = [*TREE[0][:20], VOCAB - 1]
    assert session.ask(text, max_tokens=22, ignore_eos=True).tokens == _says(text, 22)
    assert max(read) == VOCAB - 11


# ---- brought up


def _load(source: Path, drafter: Path, text_dir: Path, vram_mb: int = 8) -> Load:
    speculation = Speculation(num_speculative_tokens=4, prompt_lookup_min=2, prompt_lookup_max=4, source=str(drafter))
    return Load(
        model_id="m", source=str(source), devices=["cpu"], quant=None, vram_mb=vram_mb, context=None, max_sequences=64,
        max_step_tokens=None, cpu_threads=1, text_dir=str(text_dir), init_timeout_s=1.0, load_timeout_s=1.0,
        speculative=speculation,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(make_folder, tmp_path_factory) -> dict[str, Path]:
    """A model, one that may draft for it, and one with other tokens."""
    sizes = {"model": {}, "small": {"num_hidden_layers": 1, "vocab_size": 90}, "strange": {"num_hidden_layers": 1}}
    made = {name: tmp_path_factory.mktemp(name) for name in sizes}
    for name, more in sizes.items():
        make_folder(made[name], "llama", CONFIG | more)
    strange = made["strange"] / "tokenizer.json"
    strange.write_text(strange.read_text().replace('"w17"', '"seventeen"'))
    return made


def _tokenizer(folder: Path) -> str:
    return (folder / "tokenizer.json").read_text()


def _ignore(*_: object) -> None:
    pass


def test_a_draft_model_takes_its_room_of_the_model_s_memory(folders, tmp_path) -> None:
    """Weights and cache of both are within vram_mb, and a text has as many blocks in either."""
    alone = bring_up(_load(folders["model"], folders["small"], tmp_path / "one"), 0, None, _ignore)
    drafter = draft_part.bring_up(_load(folders["model"], folders["small"], tmp_path / "two"), _ignore)
    assert drafter is not None
    part = bring_up(drafter.load, 0, None, _ignore)
    draft_model = drafter.beside(part, _tokenizer(folders["model"]))
    assert part.size.num_blocks < alone.size.num_blocks
    size = part.size.num_blocks * part.size.block_size
    both = part.model.num_bytes + size * part.model.shape.token_bytes + draft_model.num_bytes
    assert 7.9 * MB < both <= 8 * MB


def test_a_model_with_other_tokens_cannot_draft(folders, tmp_path) -> None:
    """The error names both, and the first token that differs."""
    drafter = draft_part.bring_up(_load(folders["model"], folders["strange"], tmp_path), _ignore)
    assert drafter is not None
    part = bring_up(drafter.load, 0, None, _ignore)
    expected = (
        f"{folders['strange']} cannot draft for {folders['model']}: it should have the same vocabulary, but "
        "of the ids that both have 1 differ, the first is 17: 'w17' and 'seventeen'"
    )
    with pytest.raises(CannotLoad) as raised:
        drafter.beside(part, _tokenizer(folders["model"]))
    assert str(raised.value) == expected


def test_a_load_without_a_draft_model_brings_up_none(folders, tmp_path) -> None:
    """Prompt lookup needs no model."""
    frame = _load(folders["model"], folders["small"], tmp_path)
    lookup = Speculation(num_speculative_tokens=4, prompt_lookup_min=2, prompt_lookup_max=4)
    assert draft_part.bring_up(replace(frame, speculative=lookup), _ignore) is None
    assert draft_part.bring_up(replace(frame, speculative=None), _ignore) is None
