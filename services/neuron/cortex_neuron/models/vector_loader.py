"""From a folder or a GGUF file to a model that makes vectors or scores, through transformers' own classes.

Owns: which class reads it, how long a text its positions take, and what is refused. Does not own: how it computes
(models.vector_model), or what its files say it is for (the daemon, which tells by `load`).
Called by: engine.vector_part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from cortex_neuron import model_types
from cortex_neuron.models import loader, module_loader, prequantised, text_files
from cortex_neuron.models.devices import find_device
from cortex_neuron.models.gguf_file import GgufFile
from cortex_neuron.models.vector_model import VectorModel
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import TEXT_IS_THERE, Load

ENCODER_TYPES = model_types.ENCODER_TYPES
# Their positions begin behind the number of the padding token.
_POSITIONS_BEHIND_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")

Progress = Callable[[str, float], None]


def load(frame: Load, threads: int, progress: Progress) -> VectorModel:
    """The model on its device. Raises CannotLoad, which names the source whatever a library said of it."""
    try:
        if frame.quant is not None:
            raise CannotLoad(f"quant {frame.quant!r} is not supported with task {frame.task}, expected null")
        if frame.speculative is not None:
            raise CannotLoad(f"speculative is not supported with task {frame.task}, expected none")
        if frame.kv_cache_dtype is not None:
            raise CannotLoad(f"kv_cache_dtype is not supported with task {frame.task}, expected none")
        device = find_device(frame.devices[0])
        progress("metadata", 0.0)
        module = _read(frame, device, threads, progress)
        return _vector_model(frame, module.to(device).eval(), device)
    except CannotLoad:
        raise
    except Exception as error:
        raise CannotLoad(f"{frame.source}: {type(error).__name__}: {error}") from error


def _read(frame: Load, device: torch.device, threads: int, progress: Progress) -> Any:
    path, text_dir = Path(frame.source), Path(frame.text_dir)
    if path.is_file():
        file = GgufFile(path)
        config = module_loader.config_of_gguf(file)
        loader.check(config, path)
        text_files.write_once(text_dir, path, lambda folder: text_files.write_from_gguf(file, folder))
        progress(TEXT_IS_THERE, 0.1)
        return module_loader.whole_gguf(file, config, module_loader.gguf_dtype(device), threads, "sdpa").model
    config = module_loader.config_of_folder(path)
    if config.model_type not in ENCODER_TYPES:
        loader.check(config, path)
    prequantised.refuse(config, path)
    text_files.write_anew(text_dir, lambda folder: text_files.write_from_folder(path, folder))
    progress(TEXT_IS_THERE, 0.1)
    # On a CPU without bfloat16 instructions only float32 is fast, and exact.
    dtype = torch.float32 if device.type == "cpu" else "auto"
    if frame.task == "rerank":
        return module_loader.from_folder(AutoModelForSequenceClassification, path, dtype=dtype)
    return module_loader.from_folder(AutoModel, path, dtype=dtype, **_without_pooler(config))


def _without_pooler(config: Any) -> dict[str, bool]:
    """The layer behind BERT's first token is no part of an embedding, and many files lack it."""
    name = "add_pooling_layer"
    return {name: False} if name in inspect.signature(AutoModel._model_mapping[type(config)]).parameters else {}


def _vector_model(frame: Load, module: Any, device: torch.device) -> VectorModel:
    config = module.config
    if frame.task == "rerank" and config.num_labels != 1:
        raise CannotLoad(f"{frame.source}: it has {config.num_labels} labels; a model to rerank has 1")
    config.use_cache = False  # nothing is written behind the text
    positions = int(config.max_position_embeddings)
    if config.model_type in _POSITIONS_BEHIND_PADDING:
        positions -= config.pad_token_id + 1
    limit = frame.pooling.limit if frame.pooling is not None else None
    if frame.context is not None and frame.context > positions:
        raise CannotLoad(f"context {frame.context} is more than the {positions} tokens of the model")
    return VectorModel(
        module=module,
        device=device,
        pooling=frame.pooling,
        context=frame.context or min(limit or positions, positions),
        has_types=(getattr(config, "type_vocab_size", None) or 1) > 1,
    )
