"""What each rank holds, and what cannot be divided: decided without opening a file or starting a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron import shards
from cortex_neuron.models.checkpoint import pieces
from cortex_neuron.models.sharding import Cut, Sharding, Style
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.residency import architecture_check

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ATTENTION, MLP = "model.layers.1.self_attn", "model.layers.1.mlp"


def _config(model_type: str = "llama", **more: Any) -> Any:
    return AutoConfig.for_model(model_type, **{**SMALL, **more})


def _ranges(parameter: str, shape: list[int], world_size: int, config: Any) -> list[tuple[tuple[int, int], ...]]:
    cuts = [Sharding(config, rank, world_size).cut(parameter, shape) for rank in range(world_size)]
    return [cut.ranges for cut in cuts if cut is not None]


def test_outputs_are_cut_by_row_and_inputs_by_column() -> None:
    """Weights, and the biases of those that have some of the outputs; a summed layer's bias stays whole."""
    sharding = Sharding(_config(), 1, 4)
    assert sharding.cut(f"{ATTENTION}.q_proj.weight", [96, 48]) == Cut(-2, ((24, 48),))
    assert sharding.cut(f"{ATTENTION}.q_proj.bias", [96]) == Cut(-1, ((24, 48),))
    assert sharding.cut(f"{ATTENTION}.o_proj.weight", [48, 96]) == Cut(-1, ((24, 48),))
    assert sharding.cut(f"{ATTENTION}.o_proj.bias", [48]) is None
    assert sharding.cut(f"{MLP}.down_proj.weight", [48, 64]) == Cut(-1, ((16, 32),))
    assert sharding.cut("model.embed_tokens.weight", [96, 48]) == Cut(-2, ((24, 48),))
    assert sharding.cut("lm_head.weight", [96, 48]) == Cut(-2, ((24, 48),))
    assert sharding.cut("model.norm.weight", [48]) is None
    assert sharding.first_token() == 24


def test_fewer_kv_heads_than_ranks_are_replicated() -> None:
    """Each rank has the one that its query heads use."""
    config = _config(num_key_value_heads=2)
    assert _ranges(f"{ATTENTION}.k_proj.weight", [16, 48], 4, config) == [((0, 8),), ((0, 8),), ((8, 16),), ((8, 16),)]
    one = _config(num_key_value_heads=1)
    assert _ranges(f"{ATTENTION}.v_proj.bias", [8], 4, one) == [((0, 8),)] * 4
    assert Sharding(config, 3, 4).local_config().num_key_value_heads == 1
    assert Sharding(config, 1, 2).local_config().num_key_value_heads == 1


def test_fused_projections_are_cut_in_each_region() -> None:
    """Queries, keys and values; gates and ups: never the tensor as a whole."""
    config = _config("phi3")
    qkv = _ranges(f"{ATTENTION}.qkv_proj.weight", [160, 48], 2, config)
    assert qkv == [((0, 48), (96, 112), (128, 144)), ((48, 96), (112, 128), (144, 160))]
    assert _ranges(f"{MLP}.gate_up_proj.weight", [128, 48], 2, config) == [((0, 32), (64, 96)), ((32, 64), (96, 128))]
    few = _config("phi3", num_key_value_heads=2)
    assert _ranges(f"{ATTENTION}.qkv_proj.weight", [128, 48], 4, few)[3] == ((72, 96), (104, 112), (120, 128))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_the_parts_of_all_ranks_are_the_whole_once(world_size: int) -> None:
    """No row is lost and none is had twice, but for kv heads where there are fewer than ranks."""
    config = _config("phi3", intermediate_size=96, num_key_value_heads=12)
    for parameter, rows in ((f"{ATTENTION}.qkv_proj.weight", 288), (f"{MLP}.gate_up_proj.weight", 192)):
        ranges = _ranges(parameter, [rows, 48], world_size, config)
        assert sorted(row for rank in ranges for part in rank for row in range(*part)) == list(range(rows))


def test_experts_that_are_stored_one_by_one_are_read_by_their_own_ranges() -> None:
    """The fused parameter's ranges, in the tensors of each expert that are joined to it."""
    sharding = Sharding(_config("mixtral", num_local_experts=2), 1, 2)
    name = f"{MLP}.experts.gate_up_proj"
    shape = [2, 128, 48]
    found = pieces("mixtral", name, shape, sharding.cut(name, shape), [])
    block = "model.layers.1.block_sparse_moe"
    assert [(piece.stored, piece.part, piece.expert, piece.at) for piece in found] == [
        (f"{block}.experts.0.w1.weight", (32, 64), 0, 0),
        (f"{block}.experts.0.w3.weight", (32, 64), 0, 32),
        (f"{block}.experts.1.w1.weight", (32, 64), 1, 0),
        (f"{block}.experts.1.w3.weight", (32, 64), 1, 32),
    ]
    assert {piece.shape for piece in found} == {(64, 48)}
    (router,) = pieces("mixtral", f"{MLP}.gate.weight", [2, 48], None, [])
    assert router.stored == f"{block}.gate.weight"
    # A checkpoint that has them fused is read as it is.
    assert [piece.part for piece in pieces("mixtral", name, shape, sharding.cut(name, shape), [name])] == [
        (32, 64),
        (96, 128),
    ]


def test_the_experts_sum_and_so_do_the_layers_after_a_cut() -> None:
    """The styles are transformers' own; those it does not name are whole on every rank."""
    sharding = Sharding(_config("qwen3_moe", **EXPERTS), 0, 2)
    assert sharding.style(f"{MLP}.experts") is Style.SUMMED
    assert sharding.style(f"{ATTENTION}.o_proj") is Style.INPUTS
    assert sharding.style(f"{MLP}.gate") is Style.WHOLE


def test_a_style_that_we_do_not_know_is_refused() -> None:
    """Another version of transformers may name one: better an error than other logits."""
    config = _config()
    config.base_model_tp_plan = {"layers.*.self_attn.q_proj": "diagonal"}
    with pytest.raises(CannotLoad, match=r"q_proj is divided in style 'diagonal', which is not supported"):
        Sharding(config, 0, 2)
    config.base_model_tp_plan = None
    with pytest.raises(CannotLoad, match=r"'llama' has no plan"):
        Sharding(config, 0, 2)


# ---- what cannot be divided

FAULTS: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "heads": (
        "llama",
        {
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "hidden_size": 72,
            "intermediate_size": 1536,
            "vocab_size": 49152,
        },
        2,
        "9 attention heads and 3 kv heads cannot be divided over 2 ranks; this model can run on 1 or 3",
    ),
    "kv heads": (
        "llama",
        {"num_key_value_heads": 3},
        4,
        "3 kv heads cannot be divided over 4 ranks; this model can run on 1",
    ),
    "feed-forward": (
        "qwen2",
        {"intermediate_size": 66},
        4,
        "66 rows of its feed-forward layers cannot be divided over 4 ranks; this model can run on 1 or 2",
    ),
    "experts": (
        "qwen3_moe",
        {**EXPERTS, "moe_intermediate_size": 30},
        4,
        "30 rows of its experts cannot be divided over 4 ranks; this model can run on 1 or 2",
    ),
    "experts of mixtral": (
        "mixtral",
        {"intermediate_size": 66, "num_local_experts": 4},
        4,
        "66 rows of its experts cannot be divided over 4 ranks; this model can run on 1 or 2",
    ),
    "vocabulary": (
        "gemma",
        {"vocab_size": 98},
        4,
        "98 tokens of its vocabulary cannot be divided over 4 ranks; this model can run on 1 or 2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_divided_is_named_before_and_in_a_rank(fault: str, tmp_path: Path) -> None:
    """The same words from the daemon, which reads the file, and from a rank (case T10)."""
    model_type, more, world_size, words = FAULTS[fault]
    if fault == "kv heads":
        more = {**more, "num_attention_heads": 12, "intermediate_size": 64, "vocab_size": 64}
    config = _config(model_type, **more)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    architecture_check.check(tmp_path)
    with pytest.raises(UnsupportedArchitecture) as refusal:
        architecture_check.check(tmp_path, world_size)
    assert refusal.value.message == words
    with pytest.raises(CannotLoad) as failure:
        Sharding(config, 0, world_size)
    assert str(failure.value) == words


def test_a_gguf_file_is_judged_by_its_header(demo_path: Path) -> None:
    """The demo model has 9 heads and 3 kv heads."""
    for world_size in (1, 3):
        architecture_check.check(demo_path, world_size)
    words = "9 attention heads and 3 kv heads cannot be divided over 2 ranks; this model can run on 1 or 3"
    with pytest.raises(UnsupportedArchitecture, match=words):
        architecture_check.check(demo_path, 2)


def test_a_figure_that_the_files_do_not_say_is_not_judged() -> None:
    """The rank's own check has the config whole, with transformers' defaults."""
    assert shards.fault(shards.figures_of({"model_type": "llama", "num_attention_heads": "many"}), 7) is None
    assert shards.figures_of({"num_attention_heads": 8, "num_key_value_heads": None}).kv_heads == 8
    assert shards.figures_of({"num_attention_heads": 8}).kv_heads is None
    header = {"llama.attention.head_count": 8, "llama.feed_forward_length": 64, "tokenizer.ggml.tokens": 100}
    assert shards.figures_of_gguf(header, "llama") == shards.Figures(8, 8, 64, None, 100)
    assert shards.figures_of_gguf(header | {"llama.expert_count": 4}, "llama") == shards.Figures(8, 8, None, 64, 100)
    own = {"llama.expert_count": 4, "llama.expert_feed_forward_length": 16}
    assert shards.figures_of_gguf(header | own, "llama") == shards.Figures(8, 8, None, 16, 100)


def test_rows_that_no_layer_has_need_not_divide() -> None:
    """A mixture whose every layer has experts says a dense size all the same."""
    sparse = _config("qwen3_moe", **EXPERTS, intermediate_size=65)
    assert shards.world_sizes(shards.figures_of(sparse.to_dict())) == [1, 2, 4]
    mixed = _config("qwen3_moe", **EXPERTS, intermediate_size=65, mlp_only_layers=[1])
    assert shards.world_sizes(shards.figures_of(mixed.to_dict())) == [1]
