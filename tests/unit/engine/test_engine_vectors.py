"""Vectors and scores of the engine against transformers' own models, which are asked for each text alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vector_models import (
    TEXTS,
    expected,
    expected_scores,
    token_ids,
    write_vector_model,
)

from cortex_neuron.engine import vector_engine
from cortex_neuron.engine.vector_batch import LEAST_TEXT, choose
from cortex_neuron.engine.vector_engine import VectorEngine
from cortex_neuron.engine.vector_part import Demand, bring_up, fit, loaded
from cortex_neuron.models import vector_loader
from cortex_neuron.protocol.failures import BadRequest, CannotLoad
from cortex_neuron.protocol.frames import Encode, Load, Output, Pooling
from cortex_neuron.residency import architectures

DECODERS: dict[str, dict[str, Any]] = {"llama": {}, "qwen3": {"head_dim": 8, "num_key_value_heads": 2}}


def load_frame(source: Path, text_dir: Path, **more: Any) -> Load:
    fields: dict[str, Any] = {
        "model_id": "tiny", "source": str(source), "devices": ["cpu"], "quant": None, "vram_mb": 100, "context": None,
        "max_sequences": 4, "max_step_tokens": None, "cpu_threads": 1, "text_dir": str(text_dir / "text"),
        "init_timeout_s": 1.0, "load_timeout_s": 1.0, "task": "embed", "pooling": Pooling(mode="mean"),
    }  # fmt: skip
    return Load(**(fields | more))


def engine_of(source: Path, **more: Any) -> VectorEngine:
    return VectorEngine(bring_up(load_frame(source, source.parent, **more), lambda *_: None))


def encode(rows: Sequence[Sequence[int]], first: int = 1, **more: Any) -> Encode:
    tokens = np.array([token for row in rows for token in row], "<i4").tobytes()
    return Encode(id=first, tokens=tokens, lengths=np.array([*map(len, rows)], "<i4").tobytes(), **more)


def answers(engine: VectorEngine) -> dict[int, Output]:
    """All that comes until there is nothing more to do, by id."""
    found: dict[int, Output] = {}
    while engine.has_work:
        found |= {output.id: output for output in engine.step().outputs}
    return found


def vectors(engine: VectorEngine, rows: Sequence[Sequence[int]], **more: Any) -> Any:
    """[rows, size]"""
    engine.submit(encode(rows, **more))
    found = answers(engine)
    return np.stack([np.frombuffer(found[1 + i].vector or b"", "<f4") for i in range(len(rows))])


@pytest.mark.parametrize("model_type", vector_loader.ENCODER_TYPES)
def test_an_encoder_embeds_as_transformers_does(tmp_path: Path, model_type: str) -> None:
    """Texts of unlike length in one batch, padded, as each of them alone (1e-5), and so from step to step."""
    folder = write_vector_model(tmp_path / "m", model_type)
    rows = token_ids(folder, TEXTS)
    for step_tokens in (1, 256):  # one at a time, and together
        found = vectors(engine_of(folder, max_step_tokens=step_tokens), rows)
        np.testing.assert_allclose(found, expected(folder, TEXTS, "mean"), atol=1e-5)


@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("head", ["", "ForCausalLM"])
def test_a_decoder_embeds_by_its_last_token(tmp_path: Path, model_type: str, head: str) -> None:
    """Whichever of its classes has saved it."""
    folder = write_vector_model(tmp_path / "m", model_type, head, **DECODERS[model_type])
    rows = token_ids(folder, TEXTS)
    found = vectors(engine_of(folder, pooling=Pooling(mode="last")), rows)
    np.testing.assert_allclose(found, expected(folder, TEXTS, "last"), atol=1e-5)


@pytest.mark.parametrize("model_type", vector_loader.ENCODER_TYPES)
def test_a_cross_encoder_scores_as_transformers_does(tmp_path: Path, model_type: str) -> None:
    """The sigmoid of its one logit, with the segments of the two texts where it has such."""
    from tokenizers import Tokenizer

    folder = write_vector_model(tmp_path / "m", model_type, "ForSequenceClassification", num_labels=1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pairs = [tokenizer.encode("the dog", document) for document in TEXTS]
    types = np.array([each for pair in pairs for each in pair.type_ids], "<i4").tobytes()
    found = vectors(engine_of(folder, task="rerank", pooling=None), [pair.ids for pair in pairs], types=types)
    np.testing.assert_allclose(found[:, 0], expected_scores(folder, "the dog", TEXTS), atol=1e-5)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize(("mode", "normalize"), [("mean", True), ("mean", False), ("cls", True), ("last", False)])
def test_vectors_are_pooled_as_the_load_says(tmp_path: Path, mode: Any, normalize: bool) -> None:
    """And cut ones are of length 1 again, whatever the whole ones are."""
    folder = write_vector_model(tmp_path / "m", "bert")
    engine, rows = engine_of(folder, pooling=Pooling(mode=mode, normalize=normalize)), token_ids(folder, TEXTS)
    whole, cut = vectors(engine, rows), vectors(engine, rows, dimensions=8)
    np.testing.assert_allclose(whole, expected(folder, TEXTS, mode, normalize=normalize), atol=1e-5)
    np.testing.assert_allclose(cut, expected(folder, TEXTS, mode, cut=8), atol=1e-5)


def test_a_gguf_file_embeds_where_it_is_loaded_to(demo_path: Path, tmp_path: Path) -> None:
    """The demo model: vectors of length 1, the same in a batch as alone, and like texts are more alike."""
    engine = engine_of(demo_path, pooling=Pooling(mode="last"), vram_mb=2000)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(demo_path.parent / "text" / "tokenizer.json"))
    texts = ["A cat sat on the mat.", "A kitten sat on the rug.", "Interest rates rose by a quarter point in June."]
    rows = [tokenizer.encode(each).ids for each in texts]
    found = vectors(engine, rows)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, np.concatenate([vectors(engine, [row]) for row in rows]), atol=1e-4)
    assert found[0] @ found[1] > found[0] @ found[2]


def test_who_asks_for_one_text_does_not_wait_for_all_of_a_thousand(tmp_path: Path) -> None:
    """Each text of a request has a turn of its own; a class of priority is a head start as it is for prompts."""
    engine = engine_of(write_vector_model(tmp_path / "m", "bert"), max_step_tokens=16)
    engine.submit(encode([[2, 5, 6, 3]] * 1000, first=1))
    engine.submit(encode([[2, 7, 3]], first=2001))
    engine.submit(encode([[2, 8, 3]] * 30, first=3001, priority="high"))
    order = [output.id for _ in range(30) for output in engine.step().outputs]
    assert order.index(2001) < 50
    assert set(order[:30]) == set(range(3001, 3031))


@pytest.mark.parametrize("model_type", ["bert", "albert", "distilbert", "modernbert", "qwen3"])
def test_a_long_step_says_that_it_goes_on(tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each layer where that took long, so that a long text is not taken for a hang; else nothing is said."""
    folder, told = write_vector_model(tmp_path / "m", model_type, **DECODERS.get(model_type, {})), []
    engine = VectorEngine(bring_up(load_frame(folder, tmp_path), lambda *_: None), told.append)
    vectors(engine, [[2, 5, 3]])
    assert told == []
    monkeypatch.setattr(vector_engine, "TELL_S", 0.0)
    engine.submit(encode([[2, 5, 3]]))
    engine.submit(encode([[2] * 60], first=7))
    engine.step()
    assert len(told) >= 2
    assert {(len(each.outputs), each.waiting) for each in told} == {(0, 1)}


def test_what_is_cancelled_is_not_computed(tmp_path: Path) -> None:
    """The others are; ids that are gone are no matter."""
    engine = engine_of(write_vector_model(tmp_path / "m", "bert"))
    engine.submit(encode([[2, 5, 3]] * 4))
    engine.cancel([2, 3, 77])
    assert answers(engine).keys() == {1, 4}
    assert engine.report([], 0.0).waiting == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tokens": b"abc"}, "whole int32"),
        ({"lengths": b"\x02\0\0\0"}, "are not those"),
        ({"types": b"\0\0\0\0"}, "are not those"),
        ({"types": b"\x05\0\0\0" * 3}, "segment"),
        ({"tokens": np.array([2, 9999, 3], "<i4").tobytes()}, "vocabulary"),
        ({"tokens": b"\x02\0\0\0" * 65, "lengths": b"\x41\0\0\0"}, "65 tokens, should have 1 to 64"),
        ({"tokens": b"", "lengths": b"\0\0\0\0"}, "0 tokens"),
    ],
)
def test_a_frame_that_is_none_is_refused_whole(tmp_path: Path, more: Any, words: str) -> None:
    """Nothing of it is queued."""
    engine = engine_of(write_vector_model(tmp_path / "m", "bert", max_position_embeddings=64))
    frame = encode([[2, 5, 3]])
    fields = {name: getattr(frame, name) for name in ("tokens", "lengths", "types")} | more
    with pytest.raises(BadRequest, match=words):
        engine.submit(Encode(id=1, **fields))
    assert not engine.has_work


def test_a_vector_of_nan_fails_its_text_alone(tmp_path: Path) -> None:
    """A token whose row of the embedding is broken (case T12)."""
    import torch

    engine = engine_of(write_vector_model(tmp_path / "m", "bert"))
    with torch.no_grad():
        engine._model.module.embeddings.word_embeddings.weight[9] = float("nan")
    engine.submit(encode([[2, 5, 3], [2, 9, 3]]))
    found = answers(engine)
    assert (found[1].finish, found[2].finish, found[2].error_kind) == ("stop", "error", "non_finite_logits")


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "mpnet", "camembert"])
def test_positions_that_padding_takes_are_no_room_for_text(tmp_path: Path, model_type: str) -> None:
    """66 of them are 64 tokens, and a text of so many is computed."""
    folder = write_vector_model(tmp_path / "m", model_type)
    part = bring_up(load_frame(folder, tmp_path), lambda *_: None)
    assert loaded(1, part).context == part.context == 64
    assert vectors(VectorEngine(part), [[5] * 64]).shape == (1, 32)


def test_the_context_is_the_least_of_what_is_said(tmp_path: Path) -> None:
    """The files' limit, unless the catalogue says another; more than the positions is refused."""
    folder = write_vector_model(tmp_path / "m", "bert")
    limited = Pooling(mode="mean", limit=20)
    assert bring_up(load_frame(folder, tmp_path, pooling=limited), lambda *_: None).context == 20
    assert bring_up(load_frame(folder, tmp_path, pooling=limited, context=30), lambda *_: None).context == 30
    assert (
        bring_up(load_frame(folder, tmp_path, pooling=Pooling(mode="mean", limit=999)), lambda *_: None).context == 66
    )
    with pytest.raises(CannotLoad, match="context 67 is more than the 66 tokens"):
        bring_up(load_frame(folder, tmp_path, context=67), lambda *_: None)


def test_a_load_says_what_it_takes_and_that_there_is_no_cache(tmp_path: Path) -> None:
    """Weights and the room of a step; placement reckons with it."""
    part = bring_up(load_frame(write_vector_model(tmp_path / "m", "bert"), tmp_path), lambda *_: None)
    told = loaded(3, part)
    assert (told.seq, told.kv_blocks, told.vector_size, told.eos_ids) == (3, 0, 32, [])
    assert part.step_bytes == 256 * (8 * 32 + 3 * 64) * 4
    assert (told.vram_mb - 1) << 20 < part.model.num_bytes + part.step_bytes <= told.vram_mb << 20


@pytest.mark.parametrize(
    ("demand", "left", "found"),
    [
        (Demand(512, 1024, is_fixed=False), 10_000, (512, 1000)),
        (Demand(512, 1024, is_fixed=False), 3_000, (300, 300)),
        (Demand(512, 1024, is_fixed=False), 2_000, None),
        (Demand(512, 1024, is_fixed=True), 5_000, None),
        (Demand(40, 1024, is_fixed=False), 400, (40, 40)),
    ],
)
def test_what_does_not_fit_is_less_or_refused(demand: Demand, left: int, found: tuple[int, int] | None) -> None:
    """A context that was asked for is kept to; less than 256 tokens serve nobody who has longer texts."""
    if found is not None:
        assert fit(demand, 10, left) == found
    else:
        with pytest.raises(CannotLoad, match="vram_mb is too little"):
            fit(demand, 10, left)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"quant": "int8"}, "quant 'int8' is not supported with task embed"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype is not supported with task embed"),
        ({"devices": ["cpu", "cpu"]}, "takes 1 device, not 2"),
        ({"vram_mb": 0}, "vram_mb is too little"),
        ({"task": "rerank", "pooling": None}, "the files lack tensor classifier"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, more: Any, words: str) -> None:
    """In the words of the catalogue."""
    folder = write_vector_model(tmp_path / "m", "bert", "ForSequenceClassification", num_labels=1)
    if more.get("task") == "rerank":
        folder = write_vector_model(tmp_path / "other", "bert")
    with pytest.raises(CannotLoad, match=words):
        bring_up(load_frame(folder, tmp_path, **more), lambda *_: None)


def test_a_batch_is_texts_of_like_length() -> None:
    """The first in the queue is always of it; the rest as far as there is room, with little padding."""
    assert choose([5000], 1024) == [0]
    assert choose([10, 10, 10, 10], 30) == [0, 1, 2]
    assert choose([10, 300, 9, 8], 1024) == [0, 2, 3]
    assert choose([300, 10, 290], 1024) == [0, 2]
    lengths = [*range(1, 200)] * 5
    chosen = choose(lengths, 2048)
    area = len(chosen) * max(lengths[each] for each in chosen)
    assert chosen[0] == 0
    assert area <= 2048
    assert sum(lengths[each] for each in chosen) >= LEAST_TEXT * area


def test_daemon_and_engine_know_the_same_encoders() -> None:
    """One refuses what the other cannot do (case T11)."""
    assert frozenset(vector_loader.ENCODER_TYPES) == architectures.ENCODER_TYPES
