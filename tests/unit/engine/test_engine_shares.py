"""A rank's share of a model: what is read of the files for it, what it costs, and what is refused.

Loading takes no collective operation, so no group is needed here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from cortex_neuron.models import sharded_model
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.models.sharding import Sharding
from cortex_neuron.models.weights import SafetensorsFolder
from cortex_neuron.protocol.failures import CannotLoad

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
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, with biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "phi3": ("phi3", {}),
}


class Seat:
    """A rank that computes nothing with others: loading must not."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    def gather(self, tensor: torch.Tensor) -> torch.Tensor | None:
        raise AssertionError


def _load(source: Path, text_dir: Path, collectives: Seat | None = None) -> LoadedModel:
    return load(str(source), "cpu", None, str(text_dir), 1, lambda *_: None, collectives)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Any]) -> Callable[[str], Path]:
    """The folder of one of MODELS, in several files, made once."""
    root = tmp_path_factory.mktemp("models")

    def made(name: str) -> Path:
        model_type, more = MODELS[name]
        if not (root / name).exists():
            make_folder(root / name, model_type, {**SMALL, **more}, max_shard_size="40KB")
        return root / name

    return made


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3_moe", "phi3"])
def test_a_rank_reads_only_its_part_of_the_files(name, world_size, folder) -> None:
    """Norms, routers and replicated kv heads are all that is read more than once (case T10)."""
    path = folder(name)
    whole = sum(tensor.nbytes for file in path.glob("*.safetensors") for tensor in load_file(file).values())
    config = _load(path, path.parent / "text").module.config
    for rank in range(world_size):
        source = SafetensorsFolder(path)
        seat = Seat(rank, world_size)
        module = sharded_model.build(
            source, Sharding(config, rank, world_size), torch.float32, torch.device("cpu"), seat
        )
        assert source.num_bytes_read == sum(parameter.nbytes for parameter in module.parameters())
        assert whole / world_size <= source.num_bytes_read < 1.15 * whole / world_size


def test_a_share_says_what_it_costs(folder, tmp_path) -> None:
    """Its own kv heads and bytes; the vocabulary is the model's. Tied weights are one tensor, as in the whole."""
    path = folder("llama, tied, with biases")
    whole, share = _load(path, tmp_path / "text"), _load(path, tmp_path / "text", Seat(1, 4))
    assert (whole.shape.kv_heads, share.shape.kv_heads) == (4, 1)
    assert share.shape.token_bytes == whole.shape.token_bytes / 4
    assert (share.vocab_size, share.context, share.eos_ids) == (VOCAB, 512, (2, 3))
    assert share.module.lm_head.local.weight is share.module.model.embed_tokens.local.weight
    assert whole.num_bytes / 4 <= share.num_bytes < 1.15 * whole.num_bytes / 4


def test_a_head_of_its_own_is_read_whatever_the_config_says_of_ties(folder, tmp_path) -> None:
    """As in one process: a checkpoint that has both, and different, is not tied."""
    path = tmp_path / "model"
    shutil.copytree(folder("llama"), path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    share = _load(path, tmp_path / "text", Seat(0, 2))
    expected = _load(folder("llama"), tmp_path / "text").module.lm_head.weight
    assert torch.equal(share.module.lm_head.local.weight, expected[: VOCAB // 2])


def test_one_rank_writes_the_text_files(folder, tmp_path) -> None:
    """All have the same folder; and a group of one is a model as it ever was."""
    _load(folder("llama"), tmp_path / "one", Seat(1, 2))
    assert not (tmp_path / "one").exists()
    _load(folder("llama"), tmp_path / "one", Seat(0, 2))
    assert (tmp_path / "one/tokenizer.json").exists()
    alone = _load(folder("llama"), tmp_path / "two", Seat(0, 1))
    assert isinstance(alone.module.lm_head, torch.nn.Linear)
    assert not dist.is_initialized()  # nothing is left for other models of the process to trip over


# ---- what is refused, by name

KEYS = "model.layers.1.self_attn.k_proj.weight"


def _change(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """The file of KEYS, written anew."""
    index = json.loads((path / "model.safetensors.index.json").read_text())
    file = path / index["weight_map"][KEYS]
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def _cut_short(path: Path) -> None:
    file = next(path.glob("model-00001-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda path: _change(path, lambda tensors: tensors.pop(KEYS)),
        rf"model: the files lack tensor {KEYS}",
    ),
    "surplus": (
        lambda path: _change(path, lambda tensors: tensors.update({"model.extra.weight": torch.zeros(3)})),
        r"model-0\d+-of-0\d+.safetensors: the model has no place for tensor model.extra.weight",
    ),
    "another shape": (
        lambda path: _change(path, lambda tensors: tensors.update({KEYS: torch.zeros(16, 48)})),
        rf"model-0\d+-of-0\d+.safetensors: tensor {KEYS} is \[16, 48\], expected \[32, 48\]",
    ),
    "a file is missing": (
        lambda path: next(path.glob("model-00001-*.safetensors")).unlink(),
        r"model-00001-of-0\d+.safetensors: cannot be read",
    ),
    "a file is cut short": (_cut_short, r"model-00001-of-0\d+.safetensors: cannot be read"),
    "no weights": (
        lambda path: [file.unlink() for file in path.glob("*.safetensors*")],
        r"model: there is neither model.safetensors nor model.safetensors.index.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_by_name(damage, folder, tmp_path) -> None:
    """With the file or the tensor, and never with noise in a tensor's place."""
    shutil.copytree(folder("llama"), tmp_path / "model")
    apply, words = DAMAGE[damage]
    apply(tmp_path / "model")
    with pytest.raises(CannotLoad, match=words):
        _load(tmp_path / "model", tmp_path / "text", Seat(1, 2))


def test_frequencies_that_old_checkpoints_have_are_no_surplus(folder, tmp_path) -> None:
    """They follow from the config."""
    shutil.copytree(folder("llama"), tmp_path / "model")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    _change(tmp_path / "model", lambda tensors: tensors.update(extra))
    assert _load(tmp_path / "model", tmp_path / "text", Seat(1, 2)).shape.kv_heads == 2


def test_experts_that_are_missing_are_named_some_of_them(folder, tmp_path) -> None:
    """A mixture may lack thousands."""
    source = folder("qwen3_moe")
    path = tmp_path / "model"
    path.mkdir()
    shutil.copy(source / "config.json", path)
    shutil.copy(source / "tokenizer.json", path)
    tensors = {name: tensor for file in source.glob("*.safetensors") for name, tensor in load_file(file).items()}
    save_file({n: t.clone() for n, t in tensors.items() if ".experts." not in n}, path / "model.safetensors")
    with pytest.raises(CannotLoad, match=r"lack tensor model.layers.0.mlp.experts.0.down_proj.weight, .* and 28 more"):
        _load(path, tmp_path / "text", Seat(0, 2))


def test_a_model_that_cannot_be_divided_is_refused_with_its_place(folder, tmp_path) -> None:
    """And with the numbers of ranks that it can run on."""
    words = r"llama: 8 attention heads and .* cannot be divided over 3 ranks; this model can run on 1, 2, 4 or 8"
    with pytest.raises(CannotLoad, match=words):
        _load(folder("llama"), tmp_path / "text", Seat(0, 3))
