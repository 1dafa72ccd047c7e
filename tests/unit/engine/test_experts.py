"""How a mixture's experts are computed: both ways answer alike, and when a step can do without the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from thread_ranks import Ranks, Texts
from torch import nn

from cortex_neuron.models import experts
from cortex_neuron.models.loaded import LoadedModel

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2,
}  # fmt: skip
MIXTURES = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
PROMPTS = [[5], [8, 9] * 12, list(range(4, 28))]
GPU = torch.device("cuda:0")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of torch's grouped_mm."""
    calls: list[int] = []
    grouped = torch.nn.functional.grouped_mm
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", lambda *a, **k: (calls.append(1), grouped(*a, **k))[1])
    return calls


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", MIXTURES)
def test_both_ways_answer_alike_on_one_rank_and_on_two(
    name: str, world_size: int, tmp_path: Path, make_folder: Callable[..., Any], called: list[int]
) -> None:
    """All at once, which is what is chosen, and one by one; prompts of several lengths in one step."""
    make_folder(tmp_path / "model", name, SMALL | MIXTURES[name])
    ranks = Ranks(world_size)
    models = ranks.load(tmp_path / "model", tmp_path / "text")

    def first(rank: int, _: Any) -> torch.Tensor:
        return Texts(models[rank], PROMPTS).step()[1].log_softmax(-1)

    at_once, num_calls = ranks.run(first)[0], len(called)
    assert num_calls > 0
    for model in models:
        model.module.set_experts_implementation("eager")
    assert torch.allclose(at_once, ranks.run(first)[0], atol=1e-4)
    assert len(called) == num_calls


def test_experts_of_odd_widths_are_computed_one_by_one(
    tmp_path: Path, make_folder: Callable[..., Any], called: list[int]
) -> None:
    """grouped_mm takes rows of a multiple of 16 bytes: a rank's share of 60 is 30, and 120."""
    make_folder(tmp_path / "model", "qwen3_moe", SMALL | MIXTURES["qwen3_moe"] | {"moe_intermediate_size": 60})
    ranks = Ranks(2)
    models = ranks.load(tmp_path / "model", tmp_path / "text")
    logits = ranks.run(lambda rank, _: Texts(models[rank], PROMPTS).step()[1])[0]
    assert logits.isfinite().all()
    assert not called


@pytest.mark.parametrize(
    ("capability", "dtype", "on_host"),
    [
        ((9, 0), torch.bfloat16, False),
        ((10, 3), torch.bfloat16, False),
        ((9, 0), torch.float16, True),
        ((8, 9), torch.bfloat16, True),
        ((12, 0), torch.bfloat16, True),
    ],
)
def test_only_where_torch_has_a_kernel_for_it_the_host_need_not_know(
    capability: tuple[int, int], dtype: torch.dtype, on_host: bool, torch_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere torch itself looks at which rows each expert has."""
    model: LoadedModel = torch_model("qwen3_moe", SMALL | MIXTURES["qwen3_moe"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert experts.are_chosen_on_host(model.module.to(dtype), GPU) is on_host
    model.module.set_experts_implementation("eager")
    assert experts.are_chosen_on_host(model.module, GPU)


def test_a_mixture_whose_experts_are_layers_chooses_on_the_host_and_other_models_choose_nothing(torch_model) -> None:
    """Such as a quantised checkpoint's."""
    model: LoadedModel = torch_model("llama", SMALL)
    assert not experts.are_chosen_on_host(model.module, GPU)
    model.module.config.num_local_experts = 4
    model.module.model.layers[0].mlp.experts = nn.ModuleList([nn.Linear(4, 4)])
    assert experts.are_chosen_on_host(model.module, GPU)
