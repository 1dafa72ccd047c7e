"""From a folder or a GGUF file to a model in memory.

Owns: which reader is used, the compute type, and what is refused. Does not own: names and formats (models.gguf_*,
transformers), or how a rank's share of a model is made (models.sharded_model). Called by: each rank, once in its life.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from cortex_neuron.layers import attention
from cortex_neuron.layers.memory_order import order_for_cpu
from cortex_neuron.layers.parallel import Collectives
from cortex_neuron.models import gguf_model, native_model, sharded_model, text_files
from cortex_neuron.models.devices import find_device
from cortex_neuron.models.gguf_file import GgufFile
from cortex_neuron.models.loaded import CacheShape, LoadedModel
from cortex_neuron.models.sharding import Sharding
from cortex_neuron.models.weights import SafetensorsFolder, WeightSource, WholeTensors
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.native.matrices import ROUNDED
from cortex_neuron.protocol.failures import CannotLoad

# Each agrees with transformers' own logits, by test. residency/architectures.py says the same to the daemon.
MODEL_TYPES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "llama",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
)
# Those whose rotation depends on nothing but the position; "dynamic" and "longrope" depend on the whole batch.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A load, its device found. `collectives` of several ranks, or None for a whole model."""

    path: Path
    device: torch.device
    quant: str | None
    text_dir: Path
    threads: int
    progress: Progress
    collectives: Collectives | None

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def writes_text(self) -> bool:
        """One rank does: all have the same folder."""
        return self.collectives is None or self.collectives.rank == 0


def load(
    source: str,
    device: str,
    quant: str | None,
    text_dir: str,
    threads: int,
    progress: Progress,
    collectives: Collectives | None = None,
) -> LoadedModel:
    """The model, or with `collectives` of several ranks this rank's share of it.

    Loading takes no collective operation. Raises CannotLoad, which names the source whatever a library said of it.
    """
    shared = None if collectives is None or collectives.world_size == 1 else collectives
    try:
        _check_quant(quant)
        asked = _Asked(Path(source), find_device(device), quant, Path(text_dir), threads, progress, shared)
        return _load(asked)
    except CannotLoad:
        raise
    except Exception as error:
        raise CannotLoad(f"{source}: {type(error).__name__}: {error}") from error


def _check_quant(quant: str | None) -> None:
    """What weights are rounded to while they are read, where native.matrices can; null leaves them as they are."""
    if quant is not None and quant not in ROUNDED:
        raise CannotLoad(
            f"quant {quant!r} is not supported; expected null, the weights as the file has them, or {tuple(ROUNDED)}"
        )


def _load(asked: _Asked) -> LoadedModel:
    attention.register()
    disable_progress_bar()
    if asked.path.is_file():
        return _load_gguf(asked)
    if (asked.path / "config.json").is_file():
        return _load_folder(asked)
    raise CannotLoad(f"source {asked.path} is neither a GGUF file nor a folder with a config.json")


def _load_gguf(asked: _Asked) -> LoadedModel:
    asked.progress("metadata", 0.0)
    path = asked.path
    file = GgufFile(path)
    config = gguf_model.read_config(file)
    check(config, path)
    if asked.writes_text:
        text_files.write_once(asked.text_dir, path, lambda folder: text_files.write_from_gguf(file, folder))
    asked.progress("weights", 0.1)
    eos_ids = text_files.gguf_eos_ids(file)
    if _is_native(asked, config):
        files = gguf_model.GgufFiles(file, config)
        return _load_native(asked, config, files, files.factors, eos_ids)
    _refuse_quant(asked)
    dtype = gguf_dtype(asked.device)
    if asked.collectives is None:
        module = whole_gguf(file, config, dtype, asked.threads, attention.NAME)
    else:
        weights, factors = gguf_model.read_weights(file, config, asked.threads)
        asked.progress("model", 0.7)
        module = _share(WholeTensors(path, weights), config, dtype, asked.device, asked.collectives)
        _rescale(module, factors)
    return _loaded(_placed(module, asked), module.config, asked.device, eos_ids, config.vocab_size)


def gguf_dtype(device: torch.device) -> torch.dtype:
    """What a GGUF file's weights are computed in, once they are dequantised."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def whole_gguf(file: GgufFile, config: Any, dtype: torch.dtype, threads: int, attention_name: str) -> Any:
    """A causal model of transformers with the file's weights. Raises CannotLoad."""
    weights, factors = gguf_model.read_weights(file, config, threads)
    # A class of its own, because the automatic one takes no weights without a name.
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    assert issubclass(kind, PreTrainedModel)
    options = _REPORTED | {"attn_implementation": attention_name}
    module = whole(file.path, *kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **options))
    _rescale(module, factors)
    return module


def _rescale(module: Any, factors: torch.Tensor | None) -> None:
    """Llama 3's factors [rotary / 2], which divide the frequencies of rotation."""
    if factors is not None:
        module.model.rotary_emb.inv_freq /= factors.to(module.model.rotary_emb.inv_freq.device)


def _load_folder(asked: _Asked) -> LoadedModel:
    asked.progress("metadata", 0.0)
    path = asked.path
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    check(config, path)
    if asked.writes_text:
        text_files.write_once(
            asked.text_dir, path / "config.json", lambda folder: text_files.write_from_folder(path, folder)
        )
    asked.progress("weights", 0.1)
    eos_ids = _folder_eos_ids(path, config)
    if _is_native(asked, config):
        return _load_native(asked, config, native_model.FolderFiles(SafetensorsFolder(path)), None, eos_ids)
    _refuse_quant(asked)
    # On a CPU without bfloat16 instructions only float32 is fast, and exact.
    dtype = torch.float32 if asked.on_cpu else None
    if asked.collectives is None:
        options = {"dtype": dtype or "auto", "attn_implementation": attention.NAME}
        module = from_folder(AutoModelForCausalLM, path, **options)
    else:
        source = SafetensorsFolder(path)
        module = _share(source, config, dtype or config.dtype or source.dtype(), asked.device, asked.collectives)
    return _loaded(_placed(module, asked), module.config, asked.device, eos_ids, config.vocab_size)


def _is_native(asked: _Asked, config: Any) -> bool:
    return asked.on_cpu and asked.collectives is None and native_model.is_native(config)


def _load_native(
    asked: _Asked, config: Any, files: native_model.Files, factors: torch.Tensor | None, eos_ids: list[int]
) -> LoadedModel:
    def progress(share: float) -> None:
        asked.progress("weights", 0.1 + 0.7 * share)

    decoder = native_model.build(files, config, asked.quant, asked.threads, factors, progress)
    return _loaded(decoder, config, asked.device, eos_ids, config.vocab_size)


def _refuse_quant(asked: _Asked) -> None:
    if asked.quant is not None:
        raise CannotLoad(
            f"{asked.path}: quant {asked.quant!r} is not supported for this model here; expected null: only the native "
            f"kernels round weights, on one CPU rank, where they are built, for {native_model.MODEL_TYPES}"
        )


def _placed(module: Any, asked: _Asked) -> Any:
    if asked.on_cpu:
        order_for_cpu(module)
    return module.to(asked.device).eval()


def _share(
    source: WeightSource, config: Any, dtype: torch.dtype, device: torch.device, collectives: Collectives
) -> Any:
    try:
        sharding = Sharding(config, collectives.rank, collectives.world_size)
    except CannotLoad as refusal:
        raise CannotLoad(f"{source.path}: {refusal}") from refusal
    return sharded_model.build(source, sharding, dtype, device, collectives)


_REPORTED: dict[str, Any] = {
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # reported by `whole`
}


def whole(path: Path, module: Any, report: dict[str, Any]) -> Any:
    """The module, for `report` has no complaint: transformers fills what it does not find, or finds in another shape,
    with noise and a warning. Raises CannotLoad."""
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise CannotLoad(f"{path}: tensor {name} is {list(found)}, expected {list(expected)}")
    if missing := sorted(report["missing_keys"]):
        raise CannotLoad(f"{path}: the files lack tensor {', '.join(missing)}")
    return module


def from_folder(kind: Any, path: Path, **options: Any) -> Any:
    """The folder's model as this automatic class makes it. Raises CannotLoad."""
    return whole(path, *kind.from_pretrained(path, local_files_only=True, **_REPORTED, **options))


def check(config: Any, path: Path) -> None:
    """Raises CannotLoad for a decoder that is not supported."""
    if config.model_type not in MODEL_TYPES:
        raise CannotLoad(f"{path}: model_type {config.model_type!r} is not supported, expected one of {MODEL_TYPES}")
    if quantisation := getattr(config, "quantization_config", None):
        raise CannotLoad(f"{path}: quant_method {quantisation.get('quant_method')!r} is not supported, expected none")
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if one.get("rope_type", "default") not in ROPE_TYPES:
            raise CannotLoad(f"{path}: rope_type {one['rope_type']!r} is not supported, expected one of {ROPE_TYPES}")


def _folder_eos_ids(path: Path, config: Any) -> list[int]:
    """generation_config.json's, and the config's own."""
    file = path / "generation_config.json"
    said = [text_files.read_json(file).get("eos_token_id"), config.eos_token_id]
    return sorted({i for ids in said if ids is not None for i in (ids if isinstance(ids, list) else [ids])})


def _loaded(module: Any, config: Any, device: torch.device, eos_ids: list[int], vocab_size: int) -> LoadedModel:
    """`module` is whole or a share; `config` says how many kv heads it has itself."""
    heads = config.num_attention_heads
    shape = CacheShape(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=torch.float32 if isinstance(module, Decoder) else module.dtype,
    )
    return LoadedModel(
        module=module,
        device=device,
        shape=shape,
        context=config.max_position_embeddings,
        vocab_size=vocab_size,
        eos_ids=tuple(eos_ids),
    )
