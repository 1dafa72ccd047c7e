"""From files to a model: GGUF and folders, the text files beside it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from gguf_files import FILES, VOCAB, agrees, empty_tokenizer, reference_of, write_gguf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from cortex_neuron.models import native_model
from cortex_neuron.models.gguf_file import GgufFile
from cortex_neuron.models.loader import load
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.protocol.failures import CannotLoad, CudaNotAvailable, CudaNotBuilt


def _load(source: Path, tmp_path: Path, **more: Any) -> Any:
    asked = {"device": "cpu", "quant": None, "text_dir": str(tmp_path / "text"), "threads": 2} | more
    return load(str(source), progress=lambda *_: None, **asked)


@pytest.mark.parametrize("name", FILES)
def test_a_gguf_file_gives_the_logits_of_the_model_it_was_made_from(name, tmp_path, start_with) -> None:
    """Names, shapes, permuted heads, shifted norms and the config, for every GGUF architecture we say we read."""
    arch, model_type, more, metadata = FILES[name]
    reference = reference_of(model_type, more)
    write_gguf(tmp_path / "m.gguf", arch, reference, metadata)
    model = _load(tmp_path / "m.gguf", tmp_path)
    assert isinstance(model.module, Decoder) == (model_type in native_model.MODEL_TYPES)
    agrees(model, reference, start_with)
    assert model.eos_ids == (1, 2)


def test_llama_3_rope_factors_of_a_gguf_file_are_used(tmp_path, monkeypatch) -> None:
    """llama.cpp writes them as a tensor; each frequency is divided by its factor."""
    monkeypatch.setattr(native_model, "library", lambda: None)
    reference, factors = reference_of("llama", {}), torch.linspace(1, 8, 16)
    write_gguf(tmp_path / "plain.gguf", "llama", reference, {})
    write_gguf(tmp_path / "long.gguf", "llama", reference, {}, {"rope_freqs.weight": factors})
    plain, long = _load(tmp_path / "plain.gguf", tmp_path), _load(tmp_path / "long.gguf", tmp_path)
    frequencies = plain.module.model.rotary_emb.inv_freq
    assert torch.allclose(long.module.model.rotary_emb.inv_freq, frequencies / factors)


def test_the_native_kernels_use_them_too(tmp_path, native_kernels) -> None:
    """Of the same files."""
    reference, factors = reference_of("llama", {}), torch.linspace(1, 8, 16)
    write_gguf(tmp_path / "plain.gguf", "llama", reference, {})
    write_gguf(tmp_path / "long.gguf", "llama", reference, {}, {"rope_freqs.weight": factors})
    plain, long = _load(tmp_path / "plain.gguf", tmp_path), _load(tmp_path / "long.gguf", tmp_path)
    expected = torch.from_numpy(plain.module.rotations.frequencies) / factors
    assert torch.allclose(torch.from_numpy(long.module.rotations.frequencies), expected)


def test_our_reader_agrees_with_the_gguf_package(tmp_path) -> None:
    """The same metadata and tensors, arrays and strings included."""
    write_gguf(tmp_path / "m.gguf", "llama", reference_of("llama", {}), {})
    ours, theirs = GgufFile(tmp_path / "m.gguf"), GGUFReader(tmp_path / "m.gguf")
    assert {k: v.contents() for k, v in theirs.fields.items() if not k.startswith("GGUF.")} == ours.metadata
    floats = dict(ours.float_tensors(2))
    assert list(floats) == [t.name for t in theirs.tensors]
    for tensor in theirs.tensors:
        assert np.array_equal(floats[tensor.name].numpy(), tensor.data)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_blocks_and_half_floats_are_read_as_float32(kind, tmp_path) -> None:
    """By the gguf package's own inverse."""
    values = np.random.default_rng(1).normal(size=(6, 64)).astype(np.float32)
    quant = GGMLQuantizationType[kind]
    writer = GGUFWriter(tmp_path / "t.gguf", "llama")
    data = values.astype(np.float16) if kind == "F16" else quantize(values, quant)
    writer.add_tensor("t", data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ((_, tensor),) = GgufFile(tmp_path / "t.gguf").float_tensors(1)
    assert tensor.shape == (6, 64)
    assert np.array_equal(tensor.numpy(), dequantize(data, quant).reshape(6, 64))


def test_the_text_files_of_a_gguf_file_are_what_the_daemon_needs(demo_model, demo_text_dir, oracle) -> None:
    """tokenizer.json encodes the reference's prompts, special tokens have their text, the template is there."""
    tokenizer = Tokenizer.from_file(str(demo_text_dir / "tokenizer.json"))
    for prompt in [p for p in oracle if p["kind"] == "text"]:
        assert tokenizer.encode(prompt["prompt"]).ids == prompt["prompt_ids"], prompt["name"]
    assert tokenizer.encode("in 2024").tokens == ["in", "Ġ", "2", "0", "2", "4"]
    special = json.loads((demo_text_dir / "special_tokens.json").read_text())
    assert (special["bos_token"], special["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in (demo_text_dir / "chat_template.jinja").read_text()
    assert 2 in json.loads((demo_text_dir / "generation_config.json").read_text())["eos_token_id"]
    assert 2 in demo_model.eos_ids


def test_the_text_files_are_written_once(tmp_path) -> None:
    """A folder that is complete for this source is left alone; another source's is written anew."""
    reference = reference_of("qwen3", {"tie_word_embeddings": True})
    write_gguf(tmp_path / "m.gguf", "qwen3", reference, {})
    _load(tmp_path / "m.gguf", tmp_path)
    template = tmp_path / "text/chat_template.jinja"
    template.write_text("mine")
    _load(tmp_path / "m.gguf", tmp_path)
    assert template.read_text() == "mine"
    write_gguf(tmp_path / "other.gguf", "qwen3", reference, {})
    _load(tmp_path / "other.gguf", tmp_path)
    assert template.read_text() == "{{ messages }}"


def test_a_folder_in_several_files_is_read_and_its_text_files_copied(tmp_path, start_with) -> None:
    """Shards by index; special tokens from tokenizer_config.json; eos ids of both configs."""
    folder = tmp_path / "model"
    reference_of("llama", {"eos_token_id": 4}).to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    empty_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9], "top_p": 0.8}))
    model = _load(folder, tmp_path)
    assert model.eos_ids == (4, 7, 9)
    assert model.shape.dtype is torch.float32  # a bf16 checkpoint is computed in fp32 on a CPU
    assert json.loads((tmp_path / "text/special_tokens.json").read_text()) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert (tmp_path / "text/chat_template.jinja").read_text() == "D"
    assert json.loads((tmp_path / "text/generation_config.json").read_text())["top_p"] == 0.8
    assert start_with(model, blocks=16).ask([5], max_tokens=3, ignore_eos=True).finish == "length"


# ---- what is refused, by name


def test_a_quantisation_that_is_not_supported_is_named(demo_path, tmp_path) -> None:
    with pytest.raises(CannotLoad, match=r"quant 'awq' is not supported; expected null"):
        _load(demo_path, tmp_path, quant="awq")


def test_a_gpu_on_a_host_without_one_is_refused_before_anything_is_read(tmp_path) -> None:
    """Never another backend in silence: the most basic fault is named first."""
    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    kind = CudaNotBuilt if torch.version.cuda is None else CudaNotAvailable
    with pytest.raises(kind, match=r"device cuda:0"):
        _load(tmp_path / "nothing.gguf", tmp_path, device="cuda:0")
    with pytest.raises(CannotLoad, match=r"device 'tpu' is unknown"):
        _load(tmp_path / "nothing.gguf", tmp_path, device="tpu")


def test_a_source_that_is_no_model_is_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CannotLoad, match=r"is neither a GGUF file nor a folder with a config.json"):
        _load(tmp_path / "empty", tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGML but not really")
    with pytest.raises(CannotLoad, match=r"x.gguf is not a GGUF file that can be read: it does not start with GGUF"):
        _load(tmp_path / "x.gguf", tmp_path)
    (tmp_path / "short.gguf").write_bytes(b"GGUF\x03\x00\x00\x00\x01")
    with pytest.raises(CannotLoad, match=r"short.gguf is not a GGUF file"):
        _load(tmp_path / "short.gguf", tmp_path)


def test_an_architecture_or_rope_outside_of_the_set_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CannotLoad, match=r"model_type 'gpt2' is not supported, expected one of .*llama"):
        _load(tmp_path, tmp_path)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": rope}))
    with pytest.raises(CannotLoad, match=r"rope_type 'dynamic' is not supported"):
        _load(tmp_path, tmp_path)
    writer = GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CannotLoad, match=r"architecture 'mamba' is not supported, expected one of .*llama"):
        _load(tmp_path / "m.gguf", tmp_path)


# ---- what is damaged: never a model with made-up weights


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in several files that can be loaded."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    reference_of("llama", {}).save_pretrained(folder, max_shard_size="60KB")
    empty_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


QUERIES = "model.layers.1.self_attn.q_proj.weight"


def _shard(folder: Path) -> Path:
    """The file that has QUERIES."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][QUERIES])


def _change_queries(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    shard = _shard(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(shard).items()}
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _claim_quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor is missing": (
        lambda folder: _change_queries(folder, lambda tensors: tensors.pop(QUERIES)),
        rf"model: the files lack tensor {QUERIES}",
    ),
    "a tensor has another shape": (
        lambda folder: _change_queries(folder, lambda tensors: tensors.update({QUERIES: torch.zeros(8, 64)})),
        rf"model: tensor {QUERIES} is \[8, 64\], expected \[128, 64\]",
    ),
    "a shard is missing": (lambda folder: _shard(folder).unlink(), r"model-0000\d-of-0000\d.safetensors"),
    "a shard is cut short": (lambda folder: _cut(_shard(folder)), r"model.*(incomplete metadata|not fully covered)"),
    "no weights": (
        lambda folder: [path.unlink() for path in folder.glob("*.safetensors*")],
        r"model: .*(no file named|there is neither) model.safetensors",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"model: there is no tokenizer.json"),
    "settings that are no JSON": (
        lambda folder: (folder / "tokenizer_config.json").write_text("{"),
        r"model/tokenizer_config.json: cannot be read",
    ),
    "a generation config that is no JSON": (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        r"model/generation_config.json: cannot be read",
    ),
    "quantised weights": (_claim_quantised, r"model: quant_method 'hqq' is not supported"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_damaged_folder_is_refused_by_name(fault: str, whole_folder: Path, tmp_path: Path) -> None:
    """The message has the file or the tensor; transformers alone would fill a missing tensor with noise."""
    damage, words = FOLDER_FAULTS[fault]
    shutil.copytree(whole_folder, tmp_path / "model")
    _load(tmp_path / "model", tmp_path)
    shutil.rmtree(tmp_path / "text")
    damage(tmp_path / "model")
    with pytest.raises(CannotLoad, match=words):
        _load(tmp_path / "model", tmp_path)


def _gguf_without(path: Path, name: str) -> None:
    reference = reference_of("llama", {})
    weights = {key: value for key, value in reference.state_dict().items() if key != name}
    reference.state_dict = lambda: weights
    write_gguf(path, "llama", reference, {})


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.99])
def test_a_gguf_file_that_is_cut_short_is_refused_by_name(part: float, tmp_path: Path) -> None:
    """Wherever it was cut: an interrupted copy is the commonest damage."""
    path = tmp_path / "m.gguf"
    write_gguf(path, "llama", reference_of("llama", {}), {})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(CannotLoad, match=r"m.gguf (is not a GGUF file that can be read|is cut short)"):
        _load(path, tmp_path)


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        (QUERIES, rf"m.gguf: the files lack tensor {QUERIES}"),
        ("model.embed_tokens.weight", r"m.gguf: there is no tensor token_embd.weight"),
    ],
)
def test_a_gguf_file_that_lacks_a_tensor_is_refused_by_name(lacking: str, words: str, tmp_path: Path) -> None:
    """And not loaded with noise in its place."""
    _gguf_without(tmp_path / "m.gguf", lacking)
    with pytest.raises(CannotLoad, match=words):
        _load(tmp_path / "m.gguf", tmp_path)


def test_a_gguf_file_with_any_byte_wrong_is_loaded_or_refused(tmp_path: Path) -> None:
    """A header of nonsense is a CannotLoad with the file's name, never another exception."""
    path = tmp_path / "m.gguf"
    write_gguf(path, "llama", reference_of("llama", {}), {})
    whole, random, refusals = path.read_bytes(), np.random.default_rng(3), []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(4, 2600, size=2):
            damaged[place] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        shutil.rmtree(tmp_path / "text", ignore_errors=True)
        try:
            _load(path, tmp_path)
        except CannotLoad as refusal:
            refusals.append(str(refusal))
    assert [words for words in refusals if "m.gguf" not in words] == []


# ---- weights rounded while they are read


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    empty_tokenizer().save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(("quant", "bits_of_layers", "close"), [("int8", 8.5, 0.05), ("int4", 5, 0.6)])
def test_weights_are_rounded_where_the_catalogue_asks(
    quant, bits_of_layers, close, tmp_path, start_with, native_kernels
) -> None:
    """Less memory, nearly the same answers; embedding and head have 8 bits in either."""
    reference = reference_of("llama", {})
    _save(reference, tmp_path / "model")
    model = _load(tmp_path / "model", tmp_path, quant=quant)
    ends = 2 * VOCAB * 64
    vectors = 4 * (2 * 2 + 1) * 64  # the norms
    layers = sum(p.numel() for p in reference.parameters()) - ends - vectors // 4
    assert model.num_bytes == pytest.approx(ends * 8.5 / 8 + layers * bits_of_layers / 8 + vectors, rel=0.01)
    answer = start_with(model, blocks=16).ask([5, 9, 30], max_tokens=1, logprobs=5, ignore_eos=True)
    with torch.inference_mode():
        expected = reference(torch.tensor([[5, 9, 30]])).logits[0, -1].log_softmax(-1)
    assert answer.logprobs[0].top == pytest.approx(expected[answer.logprobs[0].top_ids].tolist(), rel=close)


def test_rounding_is_refused_where_nothing_computes_it(tmp_path, monkeypatch) -> None:
    """By name, rather than done without."""
    monkeypatch.setattr(native_model, "library", lambda: None)
    _save(reference_of("llama", {}), tmp_path / "model")
    with pytest.raises(CannotLoad, match="quant 'int8' is not supported for this model here"):
        _load(tmp_path / "model", tmp_path, quant="int8")
    with pytest.raises(CannotLoad, match=r"quant 'fp8' is not supported; expected null, .*'int8', 'int4'"):
        _load(tmp_path / "model", tmp_path, quant="fp8")
