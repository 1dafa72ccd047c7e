"""Gemma 2 and 3 by the native kernels: whichever format files have, by however many threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf_files import (
    FILES,
    SMALL,
    agrees,
    agrees_in_a_crowd,
    empty_tokenizer,
    reference_of,
    round_matrices,
    write_gguf,
)
from transformers import AutoConfig

from cortex_neuron.models import native_model, strict_config
from cortex_neuron.models.loader import load
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.native_config import CLASSES

WIDE = {"hidden_size": 96}  # whose root no bfloat16 is
GEMMAS = ["gemma2", "gemma3 of a long context"]


def _load(source: Any, tmp_path: Any, *, quant: str | None = None, threads: int = 2) -> Any:
    return load(str(source), "cpu", quant, str(tmp_path / "text"), threads, lambda *_: None)


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("name", GEMMAS)
def test_answers_do_not_depend_on_the_threads(name, threads, tmp_path, start_with, native_kernels) -> None:
    """Layers that slide and others, norms on either side."""
    arch, model_type, more, metadata = FILES[name]
    reference = reference_of(model_type, more)
    write_gguf(tmp_path / "m.gguf", arch, reference, metadata)
    agrees_in_a_crowd(_load(tmp_path / "m.gguf", tmp_path, threads=threads), reference, start_with)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
@pytest.mark.parametrize("name", GEMMAS)
def test_the_matrices_of_a_gguf_file_are_what_it_says(name, kind, tmp_path, start_with, native_kernels) -> None:
    """Every kind that the gguf package writes, and one that no kernel has, which becomes floats."""
    arch, model_type, more, metadata = FILES[name]
    reference, quant = reference_of(model_type, more), GGMLQuantizationType[kind]
    write_gguf(tmp_path / "m.gguf", arch, reference, metadata, kind=quant)
    round_matrices(reference, quant)
    agrees(_load(tmp_path / "m.gguf", tmp_path), reference, start_with)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_a_folder_in_bfloat16_is_computed_in_float32(model_type, tmp_path, start_with, native_kernels) -> None:
    """The scale of the embeddings, too: it is the root of the hidden size, not what bfloat16 has of it."""
    reference = reference_of(model_type, WIDE).to(torch.bfloat16)
    reference.save_pretrained(tmp_path / "model")
    empty_tokenizer().save(str(tmp_path / "model/tokenizer.json"))
    model = _load(tmp_path / "model", tmp_path)
    assert isinstance(model.module, Decoder)
    agrees(model, _in_float32(reference, model_type), start_with)


def _in_float32(model: Any, model_type: str) -> Any:
    """With scales as float32 has them: a cast back would leave those of bfloat16."""
    fresh = reference_of(model_type, WIDE)
    fresh.load_state_dict({name: values.float() for name, values in model.state_dict().items()})
    return fresh


@pytest.mark.parametrize(
    "said",
    [
        {"use_bidirectional_attention": True},
        {"hidden_activation": "gelu"},
        {"head_dim": 24},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_kernels_do_not_compute_is_left_to_transformers(said: dict[str, Any], native_kernels) -> None:
    """Told from the config, before a file is read."""
    assert native_model.is_native(strict_config.read(CLASSES["gemma3_text"], SMALL))
    assert not native_model.is_native(strict_config.read(CLASSES["gemma3_text"], SMALL | said))
    assert AutoConfig.for_model("gemma3_text", **(SMALL | said))


@pytest.mark.parametrize(("quant", "close"), [("int8", 0.05), ("int4", 0.6)])
def test_weights_are_rounded_where_the_catalogue_asks(quant, close, tmp_path, start_with, native_kernels) -> None:
    """Nearly the same answers."""
    reference = reference_of("gemma3_text", {})
    reference.save_pretrained(tmp_path / "model")
    empty_tokenizer().save(str(tmp_path / "model/tokenizer.json"))
    model = _load(tmp_path / "model", tmp_path, quant=quant)
    answer = start_with(model, blocks=16).ask([5, 9, 30], max_tokens=1, logprobs=5, ignore_eos=True)
    with torch.inference_mode():
        expected = reference(torch.tensor([[5, 9, 30]])).logits[0, -1].log_softmax(-1)
    assert answer.logprobs[0].top == pytest.approx(expected[answer.logprobs[0].top_ids].tolist(), rel=close)
