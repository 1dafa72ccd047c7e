"""Weights of 8 and 4 bits where torch computes: rounded by torchao, or in checkpoints that have them so already.

What reads and rounds them is of the extra `gpu`; where it is not installed, these tests of it are skipped. All run on
a CPU, where arithmetic is the same.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.layers.parallel import RowParallelLinear
from cortex_neuron.models import loader, prequantised, rounding
from cortex_neuron.models.asked import Asked
from cortex_neuron.models.loaded import CacheShape, LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.failures import CannotLoad

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 96, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
PROMPT = [5, 9, 30, 31, 7]
FP8 = torch.float8_e4m3fn


def _model() -> Any:
    torch.manual_seed(5)
    config = AutoConfig.for_model("llama", **SMALL)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.inference_mode()
def _logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([PROMPT])).logits[0]
    return found


# ---- rounded while they are loaded


@pytest.mark.filterwarnings("default")  # torchao's own
@pytest.mark.parametrize(("quant", "close"), [("int8", 0.01), ("fp8", 0.05)])
def test_the_matrices_of_layers_are_rounded_and_nothing_else(quant: str, close: float) -> None:
    """What is computed with them is what their dequantised values give; the memory that is reported is theirs."""
    pytest.importorskip("torchao", reason="torchao is not installed: it is of the extra gpu")
    model, plain = _model(), _model()
    assert rounding.round_weights(model, quant, CPU) == 2 * 7
    for name, layer in plain.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            stored: Any = model.get_submodule(name).weight
            assert type(stored) is not torch.nn.Parameter
            layer.weight.data = stored.dequantize()
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    torch.testing.assert_close(_logits(model), _logits(plain), atol=1e-4, rtol=1e-4)
    assert (_logits(model) - _logits(_model())).abs().max() < close * _logits(_model()).abs().max() * 2
    shape = CacheShape(2, 2, 64, torch.float32)
    layers = sum(p.numel() for p in plain.model.layers.parameters())
    rest = 4 * (2 * 96 * 256 + 5 * 256)
    found = LoadedModel(model, CPU, shape, 512, 96, (2,)).num_bytes
    assert found == pytest.approx(layers + rest, rel=0.03)


@pytest.mark.filterwarnings("default")
def test_a_ranks_share_is_rounded_inside_its_layer() -> None:
    """A row-parallel layer wraps a plain one, whose weights are rounded in place."""
    pytest.importorskip("torchao", reason="torchao is not installed: it is of the extra gpu")
    share = torch.nn.Sequential(RowParallelLinear(torch.nn.Linear(256, 64), collectives=_Alone()))  # type: ignore[arg-type]
    given = torch.randn(3, 256)
    before = share(given)
    assert rounding.round_weights(share, "int8", CPU) == 1
    torch.testing.assert_close(share(given), before, atol=0.05, rtol=0.05)


class _Alone:
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.mark.parametrize(
    ("quant", "words"),
    [
        ("awq", r"quant 'awq' is not supported; expected null, .*'int8', 'int4', 'fp8'"),
        ("int8", r"quant 'int8': a GPU's weights are rounded by torchao, which is not installed: install .*'gpu'"),
    ],
)
def test_what_cannot_be_rounded_on_a_gpu_is_refused_before_the_weights_are_read(
    quant: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the key, and what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CannotLoad, match=words):
        rounding.check(quant, torch.device("cuda:0"))


def test_int4_names_the_gpu_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernel for it needs capability 8.0."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(CannotLoad, match=r"quant 'int4' needs .*8.0, and cuda:0 has less: int8 does not"):
        rounding.check("int4", torch.device("cuda:0"))
    rounding.check("int8", torch.device("cuda:0"))


# ---- quantised already


Stored = tuple[dict[str, torch.Tensor], torch.Tensor]  # what the file has, and what it is worth


def _int8(weight: torch.Tensor) -> Stored:
    scale = weight.abs().amax(1, keepdim=True) / 127
    numbers = (weight / scale).round()
    return {"weight": numbers.to(torch.int8), "weight_scale": scale}, numbers * scale


def _int4(weight: torch.Tensor) -> Stored:
    """By groups of 128, eight numbers in an int32, the first one lowest, each with 8 added."""
    rows, columns = weight.shape
    groups = weight.view(rows, -1, 128)
    scale = groups.abs().amax(-1) / 7
    numbers = (groups / scale[..., None]).round()
    eights = (numbers.view(rows, columns // 8, 8) + 8).to(torch.int64)
    packed = (eights << (4 * torch.arange(8))).sum(-1)
    packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)
    parts = {"weight_packed": packed, "weight_scale": scale, "weight_shape": torch.tensor([rows, columns])}
    return parts, (numbers * scale[..., None]).view(rows, columns)


def _fp8(weight: torch.Tensor) -> Stored:
    """By blocks of 128 x 128, as DeepSeek's and Qwen's."""
    rows, columns = weight.shape
    blocks = weight.view(rows // 128, 128, columns // 128, 128)
    scale = blocks.abs().amax((1, 3)) / 448
    numbers = (blocks / scale[:, None, :, None]).to(FP8)
    worth = (numbers.float() * scale[:, None, :, None]).reshape(rows, columns)
    return {"weight": numbers.reshape(rows, columns), "weight_scale_inv": scale}, worth


def _scheme(bits: int, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **more}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


CHECKPOINTS: dict[str, tuple[Callable[[torch.Tensor], Stored], dict[str, Any], str]] = {
    "compressed-tensors, int8": (
        _int8,
        {**_scheme(8, strategy="channel"), "format": "int-quantized", "quantization_status": "compressed"},
        "compressed_tensors",
    ),
    "compressed-tensors, W4A16": (
        _int4,
        {
            **_scheme(4, strategy="group", group_size=128),
            "format": "pack-quantized",
            "quantization_status": "compressed",
        },
        "compressed_tensors",
    ),
    "fp8 by blocks": (
        _fp8,
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        "accelerate",
    ),
}


def _write(folder: Path, quantise: Callable[[torch.Tensor], Stored], said: dict[str, Any]) -> Any:
    """The checkpoint; and the model that has what its weights are worth."""
    model = _model()
    model.save_pretrained(folder)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.dim() < 2 or not name.startswith("model.layers"):
            tensors[name] = tensor
            continue
        parts, worth = quantise(tensor)
        tensors |= {f"{name.removesuffix('weight')}{leaf}": part.contiguous() for leaf, part in parts.items()}
        model.get_parameter(name).data = worth
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    vocab = {f"w{i}": i for i in range(96)}
    Tokenizer(tokenizer_models.WordLevel(vocab, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return model


@pytest.mark.filterwarnings("default")  # their own
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_quantised_checkpoint_gives_what_its_weights_are_worth(name: str, tmp_path: Path, start_with: Any) -> None:
    """As a plain model of the dequantised weights does; through the engine."""
    quantise, said, package = CHECKPOINTS[name]
    pytest.importorskip(package, reason=f"{package} is not installed: it is of the extra gpu")
    worth = _write(tmp_path / "model", quantise, said)
    model = load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 1, lambda *_: None)
    answer = start_with(model, blocks=16).ask(PROMPT, max_tokens=1, logprobs=5, ignore_eos=True)
    expected = _logits(worth)[-1].log_softmax(-1)[answer.logprobs[0].top_ids]
    assert answer.logprobs[0].top == pytest.approx(expected.tolist(), abs=1e-3)


def _asked(**more: Any) -> Asked:
    given = {"device": torch.device("cuda:0"), "quant": None, "collectives": None} | more
    return Asked(path=Path("/models/m"), text_dir=Path("/t"), threads=1, progress=lambda *_: None, **given)


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("hqq", {}, "m: quant_method 'hqq' is not supported, expected one of .'compressed-tensors', 'fp8', 'awq'"),
        ("compressed-tensors", {"missing": True}, "'compressed-tensors' is read by compressed-tensors, which is not"),
        ("gptq", {"missing": True}, "'gptq' is read by gptqmodel and optimum, which is not installed"),
        ("awq", {"device": CPU}, "quant_method 'awq' needs a GPU"),
        ("awq", {"quant": "int8"}, "quant 'int8' would round weights that are awq already: leave it out"),
        ("fp8", {"collectives": _Alone()}, "quant_method 'fp8' is not divided: tensor_parallel must be 1"),
        ("fp8", {}, None),
        ("gptq", {}, None),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_refused_before_its_weights_are(
    method: str, more: dict[str, Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the method's name, the package's, or the key of the catalogue."""
    missing = more.pop("missing", False) if (more := dict(more)) else False
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None if missing else "there")
    config = AutoConfig.for_model("llama", **SMALL)
    config.quantization_config = {"quant_method": method}
    if words is None:
        prequantised.check(config, _asked(**more))
        return
    with pytest.raises(CannotLoad, match=words):
        prequantised.check(config, _asked(**more))


def test_a_plain_checkpoint_is_read_as_it_is() -> None:
    """Nothing is told to transformers, and nothing is asked of what is installed."""
    config = AutoConfig.for_model("llama", **SMALL)
    prequantised.check(config, _asked())
    assert prequantised.as_read(config) is config
    assert loader.check(config, Path("/models/m")) is None  # type: ignore[func-returns-value]
