"""What a neuron's engines are forked from."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Model
from cortex_neuron import model_types, native_config, preload_choice
from cortex_neuron.preload_choice import PRELOADS, Need, preload_for

PLAIN: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "rope_theta": 5000.0}
GGUF = {
    "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload_choice, "library_path", lambda: Path("kernels.so"))


def chosen(source: str | Path, kind: str = "cpu", **entry: Any) -> Need:
    models = [Model(id="m", source=str(source), vram_mb=100, **entry)]
    return next(need for need, module in PRELOADS.items() if module == preload_for(kind, models))


def a_folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    return path


def a_gguf(path: Path, metadata: dict[str, str]) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in metadata.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + pairs)
    return path


@pytest.mark.parametrize(("kind", "entry"), [("cuda", {}), ("cpu", {"tensor_parallel": 2}), ("cpu", {"task": "embed"})])
def test_transformers_modules_are_there_where_they_compute(kind: str, entry: dict[str, Any], tmp_path: Path) -> None:
    """A host of GPUs, several ranks, and models that embed have them before a load; native kernels do without."""
    source = a_folder(tmp_path / "m", PLAIN)
    assert chosen(source, kind, **entry) is Need.MODULES
    assert chosen(source) is Need.NOTHING


def test_where_no_kernels_are_built_modules_compute_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a host without a compiler."""
    monkeypatch.setattr(preload_choice, "library_path", lambda: None)
    assert chosen(a_folder(tmp_path / "m", PLAIN)) is Need.MODULES


@pytest.mark.parametrize(
    ("change", "need"),
    [
        ({"model_type": "gemma"}, Need.MODULES),
        ({"model_type": "gemma2"}, Need.CONFIGS),
        ({"model_type": "qwen3_moe"}, Need.CONFIGS),
        ({"architectures": ["LlamaModel"]}, Need.MODULES),
        ({"architectures": ["LlamaForSequenceClassification"]}, Need.MODULES),
        ({"architectures": ["LlamaForCausalLM"]}, Need.NOTHING),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, Need.CONFIGS),
        ({"quantization_config": {"quant_method": "fp8"}}, Need.CONFIGS),
        ({"hidden_size": "wide"}, Need.CONFIGS),
    ],
)
def test_a_folder_that_kernels_do_not_read_by_themselves_has_what_it_needs(
    change: dict[str, Any], need: Need, tmp_path: Path
) -> None:
    """So that no load takes longer than it must."""
    assert chosen(a_folder(tmp_path / "m", PLAIN | change)) is need


def test_a_folder_without_tokenizer_json_has_transformers(tmp_path: Path) -> None:
    """Which converts what is there."""
    source = a_folder(tmp_path / "m", PLAIN)
    (source / "tokenizer.json").unlink()
    assert chosen(source) is Need.CONFIGS


@pytest.mark.parametrize(
    ("change", "need"),
    [
        ({}, Need.NOTHING),
        ({"general.architecture": "gemma3"}, Need.CONFIGS),
        ({"general.architecture": "qwen3moe", "tokenizer.ggml.pre": "qwen2"}, Need.CONFIGS),
        ({"general.architecture": "bert"}, Need.MODULES),
        ({"tokenizer.ggml.pre": "llama-bpe"}, Need.CONFIGS),
        ({"tokenizer.ggml.model": "llama"}, Need.CONFIGS),
    ],
)
def test_of_a_gguf_file_it_is_read_off_its_head(change: dict[str, str], need: Need, tmp_path: Path) -> None:
    """Its architecture, and who knows its vocabulary."""
    assert chosen(a_gguf(tmp_path / "m.gguf", GGUF | change)) is need


def test_a_scaled_rotation_of_a_gguf_file_is_transformers_to_compute(tmp_path: Path) -> None:
    """It is told before the vocabulary."""
    head = {"general.architecture": "llama", "llama.rope.scaling.type": "yarn"}
    assert chosen(a_gguf(tmp_path / "m.gguf", head | GGUF)) is Need.CONFIGS


@pytest.mark.parametrize("source", ["org/name", "/nowhere", "/dev/null"])
def test_what_cannot_be_read_yet_has_configs(source: str) -> None:
    """Such as a repository that may not be here; what it is comes out when it is loaded."""
    assert chosen(source) is Need.CONFIGS


def test_the_most_that_a_model_needs_is_there_for_all(tmp_path: Path) -> None:
    """One fork server has all models; what vLLM serves has none of it, and a draft model counts."""
    plain = Model(id="p", source=str(a_folder(tmp_path / "p", PLAIN)), vram_mb=100)
    other = Model(id="o", source=str(a_folder(tmp_path / "o", PLAIN | {"model_type": "phi3"})), vram_mb=100)
    drafts = {"method": "draft_model", "model": other.source, "num_speculative_tokens": 2}
    drafted = Model(id="d", source=plain.source, vram_mb=100, speculative=drafts)
    assert preload_for("cpu", [plain, other]) == PRELOADS[Need.MODULES]
    assert preload_for("cpu", [drafted]) == PRELOADS[Need.MODULES]
    assert preload_for("cpu", [plain, other.model_copy(update={"harness": "vllm"})]) == PRELOADS[Need.NOTHING]
    assert preload_for("cpu", []) == PRELOADS[Need.CONFIGS]


def test_kinds_of_gguf_files_are_kinds_of_models() -> None:
    """Or the choice would be about names that nobody has."""
    assert set(native_config.CLASSES) & set(model_types.GGUF_ARCHITECTURES.values()) == {
        "gemma2", "gemma3_text", "llama", "qwen2", "qwen3", "qwen3_moe",
    }  # fmt: skip
