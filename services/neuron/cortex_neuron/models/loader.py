"""From a folder or a GGUF file to a model in memory.

Owns: whether the kernels compute it (models.native_model) or transformers' modules (models.module_loader), and what is
refused. Does not own: names and formats (models.gguf_*, transformers). Called by: each rank, once in its life.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cortex_neuron import model_types, native_config
from cortex_neuron.layers.parallel import Collectives
from cortex_neuron.models import gguf_model, native_files, native_model, prequantised, rounding, text_files
from cortex_neuron.models.asked import Asked, Progress
from cortex_neuron.models.devices import find_device
from cortex_neuron.models.gguf_file import GgufFile
from cortex_neuron.models.loaded import CacheShape, LoadedModel
from cortex_neuron.models.weights import SafetensorsFolder
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.native.matrices import ROUNDED
from cortex_neuron.native_config import NativeConfig
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import TEXT_IS_THERE

MODEL_TYPES = model_types.DECODER_TYPES
# Those whose rotation depends on nothing but the position; "dynamic" and "longrope" depend on the whole batch.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


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
        found = find_device(device)
        _check_quant(quant, found)
        if found.type == "cuda":
            torch.cuda.set_device(found)  # Triton, and what records graphs, ask for nothing else
        asked = Asked(Path(source), found, quant, Path(text_dir), threads, progress, shared)
        return _load(asked)
    except CannotLoad:
        raise
    except Exception as error:
        raise CannotLoad(f"{source}: {type(error).__name__}: {error}") from error


def _check_quant(quant: str | None, device: torch.device) -> None:
    """What weights are rounded to while they are read; null leaves them as they are."""
    if quant is None:
        return
    if device.type != "cpu":
        rounding.check(quant, device)
    elif quant not in ROUNDED:
        raise CannotLoad(
            f"quant {quant!r} is not supported; expected null, the weights as the file has them, or {tuple(ROUNDED)}"
        )


def _load(asked: Asked) -> LoadedModel:
    if asked.path.is_file():
        return _load_gguf(asked)
    if (asked.path / "config.json").is_file():
        return _load_folder(asked)
    raise CannotLoad(f"source {asked.path} is neither a GGUF file nor a folder with a config.json")


def _load_gguf(asked: Asked) -> LoadedModel:
    asked.progress("metadata", 0.0)
    path = asked.path
    file = GgufFile(path)
    config = _native_config(asked, gguf_model.read_config_values(file)) or _modules().config_of_gguf(file)
    check(config, path)
    if asked.writes_text:
        text_files.write_once(asked.text_dir, path, lambda folder: text_files.write_from_gguf(file, folder))
    asked.progress(TEXT_IS_THERE, 0.1)
    eos_ids = text_files.gguf_eos_ids(file)
    if isinstance(config, NativeConfig):
        files = gguf_model.GgufFiles(file, config)
        return _load_native(asked, config, files, files.factors, eos_ids)
    _refuse_quant(asked)
    module = _modules().of_gguf(asked, file, config)
    return _loaded(asked, module, module.config, eos_ids, config.vocab_size)


def _load_folder(asked: Asked) -> LoadedModel:
    asked.progress("metadata", 0.0)
    path = asked.path
    config = _native_config(asked, text_files.read_json(path / "config.json"))
    config = config or _modules().config_of_folder(path)
    check(config, path)
    prequantised.check(config, asked)
    if asked.writes_text:
        text_files.write_anew(asked.text_dir, lambda folder: text_files.write_from_folder(path, folder))
    asked.progress(TEXT_IS_THERE, 0.1)
    eos_ids = _folder_eos_ids(path, config)
    if isinstance(config, NativeConfig):
        folder = native_files.FolderFiles(SafetensorsFolder(path), config.model_type)
        return _load_native(asked, config, folder, None, eos_ids)
    _refuse_quant(asked)
    module = _modules().of_folder(asked, config)
    return _loaded(asked, module, module.config, eos_ids, config.vocab_size)


def _modules() -> Any:
    """models.module_loader, imported where no kernel computes the model: engine.preload_modules has done so before, on
    hosts that need it for everything."""
    from cortex_neuron.models import module_loader

    return module_loader


def _native_config(asked: Asked, values: dict[str, Any]) -> NativeConfig | None:
    """The config of a model that the kernels compute here, whole."""
    kind = native_config.CLASSES.get(values.get("model_type", ""))
    if kind is None or not asked.on_cpu or asked.collectives is not None:
        return None
    config = native_config.plain(values) or _read_by_transformers(kind, values)
    is_unrounded = prequantised.settings(config) is None
    return config if is_unrounded and native_model.is_native(config) else None


def _read_by_transformers(kind: type[NativeConfig], values: dict[str, Any]) -> NativeConfig:
    """Imported where it must be: engine.preload_configs has done so before, where a catalogue has such a model."""
    from cortex_neuron.models import strict_config

    return strict_config.read(kind, values)


def _load_native(
    asked: Asked, config: NativeConfig, files: native_files.Files, factors: torch.Tensor | None, eos_ids: list[int]
) -> LoadedModel:
    def progress(share: float) -> None:
        asked.progress(TEXT_IS_THERE, 0.1 + 0.7 * share)

    decoder = native_model.build(files, config, asked.quant, asked.threads, factors, progress)
    return _loaded(asked, decoder, config, eos_ids, config.vocab_size)


def _refuse_quant(asked: Asked) -> None:
    if asked.on_cpu and asked.quant is not None:
        raise CannotLoad(
            f"{asked.path}: quant {asked.quant!r} is not supported for this model here; expected null: only the native "
            f"kernels round weights on a CPU, on one rank, where they are built, for {native_model.MODEL_TYPES}"
        )


def check(config: Any, path: Path) -> None:
    """Raises CannotLoad for a decoder that is not supported."""
    if config.model_type not in MODEL_TYPES:
        raise CannotLoad(f"{path}: model_type {config.model_type!r} is not supported, expected one of {MODEL_TYPES}")
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if one.get("rope_type", "default") not in ROPE_TYPES:
            raise CannotLoad(f"{path}: rope_type {one['rope_type']!r} is not supported, expected one of {ROPE_TYPES}")


def _folder_eos_ids(path: Path, config: Any) -> list[int]:
    """generation_config.json's, and the config's own."""
    file = path / "generation_config.json"
    said = [text_files.read_json(file).get("eos_token_id"), config.eos_token_id]
    return sorted({i for ids in said if ids is not None for i in (ids if isinstance(ids, list) else [ids])})


def _loaded(asked: Asked, module: Any, config: Any, eos_ids: list[int], vocab_size: int) -> LoadedModel:
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
        device=asked.device,
        shape=shape,
        context=config.max_position_embeddings,
        vocab_size=vocab_size,
        eos_ids=tuple(eos_ids),
        collectives=asked.collectives,
    )
