"""The configs that native kernels are given say what transformers' own classes say of the same config.json."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from cortex_neuron import native_config
from cortex_neuron.models import strict_config
from cortex_neuron.models.native_model import MODEL_TYPES
from cortex_neuron.native_config import CLASSES, NativeConfig

_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
_ROTATIONS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5000.0},
    {"rope_theta": 5000.0, "rope_scaling": None},
    {"rope_theta": 5000.0, "rope_scaling": _LLAMA3},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0}},
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
]
_SAID = st.fixed_dictionaries(
    {},
    optional={
        "vocab_size": st.just(640), "hidden_size": st.sampled_from([256, 512]), "intermediate_size": st.just(96),
        "num_hidden_layers": st.integers(1, 9), "num_attention_heads": st.sampled_from([4, 8]),
        "num_key_value_heads": st.sampled_from([2, 4]), "head_dim": st.sampled_from([16, 64]),
        "hidden_act": st.sampled_from(["silu", "gelu"]), "max_position_embeddings": st.just(512),
        "rms_norm_eps": st.just(1e-5), "tie_word_embeddings": st.booleans(), "use_sliding_window": st.booleans(),
        "sliding_window": st.sampled_from([None, 64]), "max_window_layers": st.integers(0, 4),
        "no_rope_layer_interval": st.integers(2, 4), "num_experts": st.sampled_from([0, 6]),
        "num_local_experts": st.just(5), "num_experts_per_tok": st.just(3), "moe_intermediate_size": st.just(32),
        "norm_topk_prob": st.booleans(), "mlp_only_layers": st.sampled_from([None, [], [1]]),
        "decoder_sparse_step": st.integers(1, 2), "hidden_activation": st.sampled_from(["gelu_pytorch_tanh", "silu"]),
        "query_pre_attn_scalar": st.just(32), "attn_logit_softcapping": st.sampled_from([None, 20.0]),
        "final_logit_softcapping": st.sampled_from([None, 20.0]), "sliding_window_pattern": st.integers(1, 3),
        "rope_local_base_freq": st.just(3000.0), "eos_token_id": st.sampled_from([None, 7, [7, 8]]),
        "torch_dtype": st.just("bfloat16"), "architectures": st.just(["Any"]), "unknown": st.just({"a": 1}),
    },
)  # fmt: skip


def test_there_is_a_class_for_each_kind_of_model() -> None:
    """That the kernels compute."""
    assert set(CLASSES) == set(MODEL_TYPES)
    kinds = ["gemma2", "gemma3_text", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "smollm3"]
    assert sorted(CLASSES) == kinds


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(CLASSES)), said=_SAID, rotation=st.sampled_from(_ROTATIONS))
def test_whatever_is_said_and_left_out_means_the_same(
    kind: str, said: dict[str, Any], rotation: dict[str, Any]
) -> None:
    """Every field, the defaults of what config.json does not say, and the rotation, read here unless it is scaled."""
    if kind == "gemma3_text" and "rope_parameters" in rotation:  # each kind of layer has its own
        rotation = {"rope_parameters": {"full_attention": rotation["rope_parameters"]}}
    said = {"model_type": kind, **said, **rotation}
    theirs = AutoConfig.for_model(kind).from_dict(deepcopy(said))
    assert_same(kind, strict_config.read(CLASSES[kind], deepcopy(said)), theirs)
    plain = native_config.plain(said)
    assert (plain is None) == ("factor" in str(rotation) or not CLASSES[kind].can_be_plain)
    if plain is not None:
        assert_same(kind, plain, theirs)


def assert_same(kind: str, ours: NativeConfig, theirs: Any) -> None:
    for name in sorted({each.name for each in fields(CLASSES[kind])} | {"layer_types"}):
        if name == "head_dim" and getattr(theirs, name, None) is None:  # which its modules compute then
            assert ours.head_dim == theirs.hidden_size // theirs.num_attention_heads
        else:
            assert getattr(ours, name, None) == getattr(theirs, name, None), name


@pytest.mark.parametrize("said", [{"hidden_size": "wide"}, {"vocab_size": 1.5}, {"rms_norm_eps": "small"}])
def test_a_value_of_the_wrong_type_is_refused_in_the_same_words(said: dict[str, Any]) -> None:
    """As a config.json that was written by hand may have it."""
    with pytest.raises(Exception) as theirs:
        AutoConfig.for_model("llama").from_dict(said)
    assert native_config.plain({"model_type": "llama"} | said) is None
    with pytest.raises(theirs.type) as ours:
        strict_config.read(CLASSES["llama"], said)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    "said",
    [
        {"quantization_config": {"quant_method": "fp8"}},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": "large"}},
        {"rope_parameters": [1]},
        {"num_hidden_layers": 2, "layer_types": ["full_attention"]},
        {"num_hidden_layers": 1, "layer_types": ["conv"]},
        {"num_hidden_layers": 1, "layer_types": [["full_attention"]]},
        {"eos_token_id": [1, "2"]},
        {"tie_word_embeddings": 1},
        {"model_type": "gemma2"},
    ],
)
def test_what_is_unusual_is_left_to_transformers(said: dict[str, Any]) -> None:
    """Which knows what it means, or refuses it in words of its own."""
    assert native_config.plain({"model_type": "qwen3"}) is not None
    assert native_config.plain({"model_type": "qwen3"} | said) is None
