"""Models with experts by the native kernels: however files have them, in whichever format, by however many threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf_files import (
    FILES,
    agrees,
    agrees_in_a_crowd,
    empty_tokenizer,
    reference_of,
    round_matrices,
    write_gguf,
)
from safetensors.torch import load_file, save_file

from cortex_neuron.models import native_model
from cortex_neuron.models.loader import load
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.protocol.failures import CannotLoad

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_EXPERT = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\..*")


def _load(source: Path, tmp_path: Path, *, quant: str | None = None, threads: int = 2) -> Any:
    return load(str(source), "cpu", quant, str(tmp_path / "text"), threads, lambda *_: None)


def _folder(folder: Path, more: dict[str, Any] = EXPERTS, change: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A folder of a qwen3_moe, its tensors changed before they are saved; answers the model."""
    reference = reference_of("qwen3_moe", more)
    reference.save_pretrained(folder)
    empty_tokenizer().save(str(folder / "tokenizer.json"))
    if change is not None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return reference


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_answers_do_not_depend_on_the_threads(threads, tmp_path, start_with, native_kernels) -> None:
    """Some rows of a step are alone with an expert, others are many."""
    reference = _folder(tmp_path / "model")
    model = _load(tmp_path / "model", tmp_path, threads=threads)
    assert isinstance(model.module, Decoder)
    agrees_in_a_crowd(model, reference, start_with)


def test_only_the_experts_that_are_chosen_are_read(tmp_path, start_with, native_kernels) -> None:
    """The weights of the others are no numbers at all, and nothing shows."""
    reference = _folder(tmp_path / "plain")
    with torch.inference_mode():
        routers = reference(torch.tensor([[5]]), output_router_logits=True).router_logits
    chosen = [set(logits[0].topk(2).indices.tolist()) for logits in routers]

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if (expert := _EXPERT.fullmatch(name)) and int(expert[2]) not in chosen[int(expert[1])]:
                tensors[name] = torch.full_like(tensors[name], torch.nan)

    _folder(tmp_path / "model", change=poison)
    answer = start_with(_load(tmp_path / "model", tmp_path), blocks=16).ask([5], max_tokens=1, logprobs=10)
    with torch.inference_mode():
        expected = reference(torch.tensor([[5]])).logits[0, -1].log_softmax(-1)
    assert answer.logprobs[0].top == pytest.approx(expected[answer.logprobs[0].top_ids].tolist(), abs=2e-4)


def test_experts_that_a_folder_has_in_one_tensor_are_read_apart(tmp_path, start_with, native_kernels) -> None:
    """Gate and up of all of them, and their downs, as transformers' modules have them."""

    def fuse(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            at = f"model.layers.{layer}.mlp.experts"
            parts = {
                part: torch.stack([tensors.pop(f"{at}.{i}.{part}.weight") for i in range(6)])
                for part in ("gate_proj", "up_proj", "down_proj")
            }
            tensors[f"{at}.gate_up_proj"] = torch.cat([parts["gate_proj"], parts["up_proj"]], dim=1)
            tensors[f"{at}.down_proj"] = parts["down_proj"]

    reference = _folder(tmp_path / "model", change=fuse)
    agrees(_load(tmp_path / "model", tmp_path), reference, start_with)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_of_a_gguf_file_are_joined_where_torch_computes(name, tmp_path, start_with, monkeypatch) -> None:
    """As on a GPU: transformers' modules have gate and up of all experts in one parameter."""
    monkeypatch.setattr(native_model, "library", lambda: None)
    arch, model_type, more, metadata = FILES[name]
    reference = reference_of(model_type, more)
    write_gguf(tmp_path / "m.gguf", arch, reference, metadata)
    agrees(_load(tmp_path / "m.gguf", tmp_path), reference, start_with)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantised_experts_of_a_gguf_file_are_what_it_says(kind, threads, tmp_path, start_with, native_kernels) -> None:
    """Every kind that the gguf package writes, and one that no kernel has, which becomes floats."""
    arch, model_type, more, metadata = FILES["qwen3_moe"]
    reference, quant = reference_of(model_type, more), GGMLQuantizationType[kind]
    write_gguf(tmp_path / "m.gguf", arch, reference, metadata, kind=quant)
    round_matrices(reference, quant)
    model = _load(tmp_path / "m.gguf", tmp_path, threads=threads)
    assert isinstance(model.module, Decoder)
    agrees(model, reference, start_with)


@pytest.mark.parametrize(("quant", "bits", "close"), [("int8", 8.5, 0.05), ("int4", 5, 0.6)])
def test_experts_are_rounded_where_the_catalogue_asks_and_routers_are_not(
    quant, bits, close, tmp_path, start_with, native_kernels
) -> None:
    """Less memory, nearly the same answers."""
    reference = _folder(tmp_path / "model")
    plain, model = _load(tmp_path / "model", tmp_path), _load(tmp_path / "model", tmp_path, quant=quant)
    sizes = {name: values.numel() for name, values in reference.named_parameters() if values.dim() > 1}
    ends = sum(size for name, size in sizes.items() if "layers" not in name)
    layers = sum(size for name, size in sizes.items() if "_proj" in name)
    saved = ends * (32 - 8.5) / 8 + layers * (32 - bits) / 8
    routers = 2 * 16 * 64 * 4  # a panel of 16 rows each, 6 of them used
    assert plain.num_bytes - model.num_bytes == pytest.approx(saved, abs=1)
    assert plain.num_bytes > sum(sizes.values()) * 4 - 2 * 6 * 64 * 4 + routers
    answer = start_with(model, blocks=16).ask([5, 9, 30], max_tokens=1, logprobs=5, ignore_eos=True)
    with torch.inference_mode():
        expected = reference(torch.tensor([[5, 9, 30]])).logits[0, -1].log_softmax(-1)
    assert answer.logprobs[0].top == pytest.approx(expected[answer.logprobs[0].top_ids].tolist(), rel=close)


LAST = "model.layers.1.mlp.experts.5.up_proj.weight"
FAULTS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Any], str]] = {
    "one is missing": ({}, lambda tensors: tensors.pop(LAST), f"model: the files lack tensor {LAST}"),
    "one has another shape": (
        {},
        lambda tensors: tensors.update({LAST: torch.zeros(16, 64)}),
        rf"model: tensor {LAST} is \[16, 64\], expected \[32, 64\]",
    ),
    "one has another type": (
        {},
        lambda tensors: tensors.update({LAST: tensors[LAST].half()}),
        f"model: tensor {LAST} is F16, others F32",
    ),
    "more are chosen than there are": (
        {"num_experts_per_tok": 7},
        lambda tensors: None,
        "model: num_experts_per_tok is 7, of 6 experts",
    ),
    "there is no router": (
        {},
        lambda tensors: tensors.pop("model.layers.0.mlp.gate.weight"),
        "model: the files lack tensor model.layers.0.mlp.gate.weight",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_experts_is_said_by_name(fault: str, tmp_path: Path, native_kernels) -> None:
    """The file and the tensor, or the figure."""
    more, change, words = FAULTS[fault]
    _folder(tmp_path / "model", {**EXPERTS, **more}, change)
    with pytest.raises(CannotLoad, match=words):
        _load(tmp_path / "model", tmp_path)


def test_a_gguf_file_of_fewer_experts_than_it_says_is_refused(tmp_path, native_kernels) -> None:
    """By the tensor's name."""
    arch, model_type, more, metadata = FILES["qwen3_moe"]
    write_gguf(tmp_path / "m.gguf", arch, reference_of(model_type, more), {**metadata, "expert_count": 7})
    words = r"m.gguf: tensor model.layers.0.mlp.gate.weight is \[6, 256\], expected \[7, 256\]"
    with pytest.raises(CannotLoad, match=words):
        _load(tmp_path / "m.gguf", tmp_path)
