"""A model over several ranks gives the logits of the same model in one process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import torch
from thread_ranks import Ranks, Texts

from cortex_neuron.engine.communicator import Communicator
from cortex_neuron.layers import fusing
from cortex_neuron.layers.fused_norm import fuse_norms
from cortex_neuron.layers.fused_ops import PlainOps
from cortex_neuron.models import loader, native_model, sharded_model
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.models.sharding import Sharding

TOLERANCE = 1e-4  # of a log-probability; sums are in another order
VOCAB = 96
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": VOCAB - 1,  # no rank but the last has it
}
SLIDING = {"sliding_window": 11, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, with biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, 2 kv heads, with biases": ("llama", {"num_key_value_heads": 2, "attention_bias": True}),
    "llama, 1 kv head": ("llama", {"num_key_value_heads": 1}),
    "mistral with a window": ("mistral", {"sliding_window": 11}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2, whose heads' size is not said": ("qwen2", {"num_key_value_heads": 2, "head_dim": None}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3_moe": ("qwen3_moe", EXPERTS),
    "qwen3_moe with a dense layer": ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [1], "norm_topk_prob": True}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "phi3": ("phi3", {"head_dim": None}),
    "phi3, 2 kv heads, a window": ("phi3", {"num_key_value_heads": 2, "sliding_window": 11}),
    "gemma": ("gemma", {"num_key_value_heads": 1}),
    "gemma2": ("gemma2", {**SLIDING, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 3.0}),
    "gemma3_text": ("gemma3_text", {**SLIDING, "query_pre_attn_scalar": 12, "num_key_value_heads": 2}),
}
# Below, at and above the window of 11 and the block of 16, repetitive ones, and one that takes several chunks.
PROMPTS = [[5], [7, 9, 11], [8] * 11, [8, 9] * 20, list(range(4, 37)), random.Random(3).choices(range(4, VOCAB), k=90)]
REPETITIVE = [[8] * 70, [8, 9] * 35, [8] * 69 + [9], ([8] * 9 + [10]) * 7]
ANSWER = [5, 5, 5, 30, 71, 5, 8, 8]


def _load(source: Path, text_dir: Path) -> LoadedModel:
    return load(str(source), "cpu", None, str(text_dir), 1, lambda *_: None)


def _logits(model: LoadedModel, prompts: list[list[int]]) -> torch.Tensor:
    """[tokens, vocab] after each prompt and each token of one answer: chunked prefill, then decode, in one batch."""
    batch = Texts(model, prompts)
    rows = []
    given = [0] * len(prompts)
    while min(given) <= len(ANSWER):
        ready, logits = batch.step()
        rows.append(logits)
        for i in ready:
            batch.texts[i] += ANSWER[given[i] : given[i] + 1]
            given[i] += 1
    return torch.cat(rows)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.log_softmax(-1) - other.log_softmax(-1)).abs().max())


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., float]:
    """How far the logits of a folder's model over so many ranks are from those of one process."""

    def difference(folder: Path, world_size: int, prompts: list[list[int]] = PROMPTS) -> float:
        ranks = Ranks(world_size)
        models = ranks.load(folder, tmp_path / "text")
        got = ranks.run(lambda rank, _: _logits(models[rank], prompts))
        assert [part.shape[-1] for part in got[1:]] == [VOCAB // world_size] * (world_size - 1)
        return _difference(got[0], _logits(_load(folder, tmp_path / "text"), prompts))

    return difference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Any]) -> Callable[[str], Path]:
    """The folder of a family's model, made once."""
    root = tmp_path_factory.mktemp("families")

    def made(name: str) -> Path:
        model_type, more = FAMILIES[name]
        path = root / name
        if not path.exists():
            config = {key: value for key, value in {**SMALL, **more}.items() if value is not None}
            make_folder(path, model_type, config, max_shard_size="40KB")
        return path

    return made


# ---- the same logits


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_family_over_several_ranks_gives_the_logits_of_one_process(name, world_size, folder, compare) -> None:
    """Chunked prompts and decoding in one batch; rank 0 has the logits whole, the others their part."""
    assert compare(folder(name), world_size) < TOLERANCE


@pytest.mark.parametrize("name", ["llama, tied, with biases", "qwen3", "phi3", "qwen3_moe with a dense layer"])
def test_a_share_whose_layers_are_fused_gives_the_same(name, folder, compare, monkeypatch) -> None:
    """As ranks on GPUs have it: by the same forwards, with this rank's heads, and its weights joined."""
    build, told = sharded_model.build, []

    def built(*given: Any) -> Any:
        share = build(*given)
        if not any(isinstance(each, Communicator) for each in given):
            return share
        fuse_norms(share)
        told.append(fusing.fuse_layers(share, fusing.forms_of(share), PlainOps(), torch.device("cpu")))
        return share

    monkeypatch.setattr(sharded_model, "build", built)
    assert compare(folder(name), 2) < TOLERANCE
    assert len(told) == 2
    assert all(words.startswith("fused: 2 attentions") for words in told)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_of_a_gguf_file_are_divided_as_those_of_a_folder(name, tmp_path, compare, monkeypatch) -> None:
    """The file has gate and up apart, and the ranks' share of both in one parameter."""
    monkeypatch.setattr(native_model, "library", lambda: None)  # as no rank has it
    arch, model_type, more, metadata = gguf_files.FILES[name]
    reference = gguf_files.reference_of(model_type, {**more, "vocab_size": VOCAB})
    gguf_files.write_gguf(tmp_path / "m.gguf", arch, reference, metadata)
    assert compare(tmp_path / "m.gguf", 2) < TOLERANCE


def test_every_model_type_that_we_serve_is_divided_here() -> None:
    """None is served on one device only."""
    assert {model_type for model_type, _ in FAMILIES.values()} == set(loader.MODEL_TYPES)


def test_fused_projections_cut_uniformly_would_give_other_logits(folder, compare, monkeypatch) -> None:
    """The parity above is a real one: the same rows in number, and not the same rows."""
    monkeypatch.setattr(Sharding, "_output_ranges", lambda self, _, rows: (self._part(rows),))
    assert compare(folder("phi3"), 2) > 1e-2


def test_biases_added_by_every_rank_would_give_other_logits(folder, compare, monkeypatch) -> None:
    """And biases are in these models, and large enough to be seen."""
    monkeypatch.setattr(
        sharded_model.RowParallelLinear,
        "forward",
        lambda self, x: self._collectives.all_reduce(self.local(x) + (0 if self.bias is None else self.bias)),
    )
    assert compare(folder("llama, tied, with biases"), 2) > 1e-2


@pytest.mark.parametrize("name", ["llama, 1 kv head", "qwen3", "phi3"])
def test_repetitive_prompts_give_the_logits_of_one_process(name, folder, compare) -> None:
    """Keys that repeat are where a wrong position or head shows (case T12)."""
    assert compare(folder(name), 4, REPETITIVE) < TOLERANCE


def test_nearly_identical_keys_give_the_logits_of_one_process(tmp_path, make_folder, compare) -> None:
    """Tokens that differ in the fourth digit: attention is all but flat, and sums lose the most (case T12)."""
    reference = make_folder(tmp_path / "model", "llama", {**SMALL, "num_key_value_heads": 2})
    rows = reference.model.embed_tokens.weight
    with torch.no_grad():
        rows.copy_(rows[:1] + 1e-4 * rows)
    reference.save_pretrained(tmp_path / "model")
    for world_size in (2, 4):
        assert compare(tmp_path / "model", world_size, [*PROMPTS, *REPETITIVE]) < TOLERANCE


def test_the_demo_model_over_three_ranks_gives_the_reference_answers(demo_path, tmp_path, oracle, parts) -> None:
    """9 heads and 3 kv heads, out of a quantised GGUF file; rank 0 chooses, the others are told."""
    prompts = sorted(oracle, key=lambda prompt: len(prompt["prompt_ids"]))[:3]
    num_tokens = 12
    ranks = Ranks(3)
    models = ranks.load(demo_path, tmp_path / "text")

    def answer(rank: int, communicator: Communicator) -> list[list[int]]:
        batch = Texts(models[rank], [prompt["prompt_ids"] for prompt in prompts])
        answers: list[list[int]] = [[] for _ in prompts]
        while min(map(len, answers)) < num_tokens:
            ready, logits = batch.step()
            chosen = logits.argmax(-1) if rank == 0 else torch.zeros(len(ready), dtype=torch.int64)
            for i, token in zip(ready, communicator.all_reduce(chosen).tolist(), strict=True):
                answers[i].append(token)
                batch.texts[i].append(token)
        return answers

    given = ranks.run(answer)[0]
    assert [model.shape.kv_heads for model in models] == [1, 1, 1]
    told = [_until_end(tokens[:num_tokens], models[0].eos_ids) for tokens in given]
    wrong = [parts(prompt, tokens, num_tokens) for prompt, tokens in zip(prompts, told, strict=True)]
    assert [words for words in wrong if words] == []


def _until_end(tokens: list[int], eos_ids: tuple[int, ...]) -> list[int]:
    end = next((at + 1 for at, token in enumerate(tokens) if token in eos_ids), len(tokens))
    return tokens[:end]
