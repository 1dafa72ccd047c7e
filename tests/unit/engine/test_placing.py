"""Weights go from files to where they stay, in pieces where a device takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cortex_neuron.models import module_loader, native_model
from cortex_neuron.models.loader import load
from cortex_neuron.models.placing import Placing, _pieces
from cortex_neuron.protocol.failures import CannotLoad

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip


@given(
    shape=st.lists(st.integers(1, 7), max_size=3),
    most=st.integers(1, 200),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_pieces_of_a_tensor_are_all_of_it_and_none_is_too_large(shape, most, dtype) -> None:
    """Whatever its shape; only a single number may be more than the most."""
    tensor = torch.randn(shape).to(dtype)
    into = torch.full_like(tensor, torch.nan)
    for place, piece in _pieces(into, tensor, most):
        assert piece.numel() * piece.element_size() <= max(most, piece.element_size())
        place.copy_(piece)
    assert torch.equal(into, tensor)


def test_what_is_copied_takes_the_types_and_order_of_its_place() -> None:
    """A column of a stored tensor, into another type."""
    stored, into = torch.randn(6, 8), torch.zeros(6, 3, dtype=torch.bfloat16)
    placing = Placing(torch.device("cpu"))
    placing.copy(into, stored.narrow(1, 2, 3))
    placing.done()
    assert torch.equal(into, stored[:, 2:5].to(torch.bfloat16))


@pytest.fixture
def folder(tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's, as on hosts where no native kernels compute it."""
    make_folder(tmp_path / "model", "qwen3_moe", {**SMALL, "num_experts": 4, "moe_intermediate_size": 16})
    monkeypatch.setattr(native_model, "is_native", lambda _: False)
    return tmp_path / "model"


def _load(folder: Path, told: Any = lambda *_: None) -> Any:
    return load(str(folder), "cpu", None, str(folder.parent / "text"), 1, told)


def test_a_whole_model_is_read_without_transformers_and_tells_how_far_it_is(folder, monkeypatch) -> None:
    """Each weight once, and to its place; the same as transformers reads."""
    told: list[tuple[str, float]] = []
    with monkeypatch.context() as patch:
        patch.setattr(module_loader, "from_folder", None)
        ours = _load(folder, lambda *what: told.append(what))
    with monkeypatch.context() as patch:
        patch.setattr(module_loader, "_share", _refuse)
        theirs = _load(folder)
    state = theirs.module.state_dict()
    assert state.keys() == ours.module.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.module.state_dict().items())
    shares = [share for phase, share in told if phase == "weights"]
    assert shares == sorted(shares)
    assert len(shares) > 5
    assert shares[-1] == pytest.approx(0.8)


def test_what_only_transformers_knows_is_read_by_it(folder) -> None:
    """A tensor that the model has no place for, as some checkpoints have."""
    file = folder / "model.safetensors"
    save_file({**load_file(file), "model.of_another": torch.zeros(3)}, file, {"format": "pt"})
    assert _load(folder).module.num_parameters() > 0


def test_a_tensor_that_is_not_there_is_named(folder) -> None:
    """Whoever reads it."""
    file = folder / "model.safetensors"
    kept = {name: each for name, each in load_file(file).items() if "norm.weight" not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(CannotLoad, match=r"the files lack tensor .*norm\.weight"):
        _load(folder)


def _refuse(*_: Any) -> Any:
    raise CannotLoad("not now")
