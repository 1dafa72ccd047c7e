"""Every architecture we say we serve gives transformers' own logits, through chunks, pages and batches."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

import pytest
import torch
from guesses import Replay

from cortex_neuron.models import gguf_model, loader, native_model
from cortex_neuron.models.loader import load
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.residency import architectures

VOCAB = 96
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
SLIDING = {"sliding_window": 11, "layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, with biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama with llama 3.1's rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama with yarn": ("llama", {"rope_parameters": YARN_ROPE}),
    "llama with gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 11}),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, **SLIDING}),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral with a window": ("mixtral", {"num_local_experts": 4, "sliding_window": 11}),
    "qwen3_moe": ("qwen3_moe", EXPERTS),
    "qwen3_moe with a dense layer and windows": (
        "qwen3_moe",
        {**EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [1], "use_sliding_window": True, "sliding_window": 11},
    ),
    "phi3": ("phi3", {}),
    "phi3 with a window": ("phi3", {"sliding_window": 11}),
    "phi3 that turns half of a head": ("phi3", {"partial_rotary_factor": 0.5}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {**SLIDING, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 3.0}),
    "gemma2 without caps": ("gemma2", {**SLIDING, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3_text": ("gemma3_text", {**SLIDING, "query_pre_attn_scalar": 12}),
    "gemma3_text of a long context": ("gemma3_text", {**SLIDING, "rope_parameters": LINEAR_ROPE}),
}
# Sizes that the native kernels take; 1,056 tokens fill many parts of attention.
NATIVE = {**SMALL, "hidden_size": 96, "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 2048}
LONG = random.Random(4).choices(range(4, VOCAB), k=1056)
# Below, at and above the window of 11 and the block of 16, repetitive ones, and one that takes several chunks.
PROMPTS = [[5], [7, 9, 11], [8] * 11, [8, 9] * 8, list(range(4, 37)), random.Random(3).choices(range(4, VOCAB), k=90)]


def _worst_difference(reference: Any, prompt: list[int], answer: Any) -> float:
    """The largest distance of the engine's log-probabilities from those of one plain forward over the whole text."""
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer.tokens])).logits[0]
    expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
    worst = 0.0
    for row, got in zip(expected, answer.logprobs, strict=True):
        worst = max(worst, float((row[got.top_ids] - torch.tensor(got.top)).abs().max()))
    return worst


def _drafted(model: Any, start_with: Any, prompt: list[int], answer: Any) -> Any:
    """The same answer, from steps that check drafts: three that are right, then one that is not."""
    session = start_with(model, draft=partial(Replay, prompt + answer.tokens, 4))
    again = session.ask(prompt, max_tokens=len(answer.tokens), logprobs=20, ignore_eos=True)
    assert session.steps[-1].accepted >= len(answer.tokens) // 2
    return again


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_the_logits_of_transformers(name, tmp_path, make_folder, start_with) -> None:
    """The best 20 log-probabilities of every token, in one batch with chunked prompts and small blocks; and of one
    that is drafted."""
    model_type, more = FAMILIES[name]
    reference = make_folder(tmp_path / "model", model_type, {**SMALL, **more})
    model = load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 2, lambda *_: None)
    session = start_with(model, blocks=64, sequences=8, step_tokens=24)
    ids = [session.submit(p, max_tokens=14, logprobs=20, ignore_eos=True) for p in PROMPTS]
    session.finish()
    worst = max(_worst_difference(reference, p, session.answers[i]) for p, i in zip(PROMPTS, ids, strict=True))
    assert worst < 2e-4
    drafted = _drafted(model, start_with, PROMPTS[-1], session.answers[ids[-1]])
    assert _worst_difference(reference, PROMPTS[-1], drafted) < 2e-4
    assert model.eos_ids == (2, 3)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family[0] in native_model.MODEL_TYPES])
def test_a_family_gives_them_by_the_native_kernels_too(
    name, tmp_path, make_folder, start_with, native_kernels, monkeypatch
) -> None:
    """The same with sizes that they take, a long prompt beside the others, and whole steps of it; and drafted."""
    model_type, more = FAMILIES[name]
    reference = make_folder(tmp_path / "model", model_type, {**NATIVE, **more})
    model = load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 2, lambda *_: None)
    assert isinstance(model.module, Decoder)
    session = start_with(model, blocks=160, sequences=8, step_tokens=100)
    prompts = [*PROMPTS, LONG]
    ids = [session.submit(p, max_tokens=14, logprobs=20, ignore_eos=True) for p in prompts]
    session.finish()
    worst = max(_worst_difference(reference, p, session.answers[i]) for p, i in zip(prompts, ids, strict=True))
    assert worst < 2e-4
    assert _worst_difference(reference, LONG, _drafted(model, start_with, LONG, session.answers[ids[-1]])) < 2e-4


OTHERWISE = {
    "sliding_window": 512,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "query_pre_attn_scalar": 256,
}


@pytest.mark.parametrize("sizes", [SMALL, NATIVE], ids=["torch", "native"])
def test_what_is_peculiar_to_the_test_models_matters(sizes, tmp_path, make_folder, start_with) -> None:
    """The parity above is a real one: without window, caps or scale, the same weights give other logits."""
    model_type, more = FAMILIES["gemma2"]
    reference = make_folder(tmp_path / "model", model_type, {**sizes, **more})
    config = json.loads((tmp_path / "model/config.json").read_text())
    for key, value in OTHERWISE.items():
        (tmp_path / "model/config.json").write_text(json.dumps({**config, key: value}))
        model = load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 2, lambda *_: None)
        answer = start_with(model).ask(PROMPTS[-1], max_tokens=4, logprobs=20, ignore_eos=True)
        assert _worst_difference(reference, PROMPTS[-1], answer) > 1e-2


def test_every_family_we_say_we_serve_is_tested_here() -> None:
    """The daemon's list, the engine's list and this file's are one."""
    assert {model_type for model_type, _ in FAMILIES.values()} == set(loader.MODEL_TYPES) == architectures.MODEL_TYPES
    assert gguf_model.MODEL_TYPES == architectures.GGUF_ARCHITECTURES
    assert set(gguf_model.MODEL_TYPES.values()) <= architectures.MODEL_TYPES
