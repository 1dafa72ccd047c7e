"""How much of transformers the engines of a catalogue need, found before any of them starts.

Owns: the choice among what a fork server can import (engine.preload and those beside it). Does not own: importing it,
or judging files (residency.architecture_check does, at each load): where this is wrong, loads are slower, or the start.
Called by: fork_source. Imports little: nothing else begins before it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.inventory.sources import names_a_path
from cortex_neuron import model_types, native_config
from cortex_neuron.native.build import library_path
from cortex_neuron.residency import gguf_header

_MODEL, _PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_WANTED = frozenset({gguf_header.ARCHITECTURE, _MODEL, _PRE})


class Need(IntEnum):
    """What of transformers an engine imports."""

    NOTHING = 0  # kernels compute the model, and its files say nothing unusual
    CONFIGS = 1  # its config or its tokenizer is transformers' to read, or nobody knows yet
    MODULES = 2  # transformers' modules compute it


PRELOADS = {
    Need.NOTHING: "cortex_neuron.engine.preload",
    Need.CONFIGS: "cortex_neuron.engine.preload_configs",
    Need.MODULES: "cortex_neuron.engine.preload_modules",
}


def preload_for(kind: str, models: Iterable[Model]) -> str:
    """What engines on devices of this kind are forked from: enough for every model of ours, and no more."""
    if kind == "cuda" or library_path() is None:
        return PRELOADS[Need.MODULES]
    needs = [_need(model) for model in models if model.harness == "torch"]
    return PRELOADS[max(needs, default=Need.CONFIGS)]


def _need(model: Model) -> Need:
    if model.tensor_parallel > 1 or model.task in ("embed", "rerank"):
        return Need.MODULES
    return max(_need_of_files(source) for source in model.sources)


def _need_of_files(source: str) -> Need:
    """Of a repository it is found out when it is loaded, and so is what cannot be read."""
    path = Path(source).expanduser()
    try:
        if not names_a_path(source):
            return Need.CONFIGS
        return _need_of_folder(path) if path.is_dir() else _need_of_gguf(path)
    except (OSError, ValueError, TypeError, ArithmeticError, struct.error):
        return Need.CONFIGS


def _need_of_folder(path: Path) -> Need:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") not in native_config.CLASSES or _makes_vectors(path, config):
        return Need.MODULES
    is_plain = native_config.plain(config) is not None and (path / "tokenizer.json").exists()
    return Need.NOTHING if is_plain else Need.CONFIGS


def _makes_vectors(path: Path, config: dict[str, Any]) -> bool:
    """As residency.purpose finds it for the kinds that kernels compute."""
    architecture = str((config.get("architectures") or [""])[0])
    return architecture.endswith(("Model", "ForSequenceClassification")) or (path / "modules.json").exists()


def _need_of_gguf(path: Path) -> Need:
    header = gguf_header.read(path, _WANTED)
    architecture = header[gguf_header.ARCHITECTURE]
    kind = native_config.CLASSES.get(model_types.GGUF_ARCHITECTURES.get(architecture, ""))
    if kind is None:
        return Need.MODULES
    is_scaled = header.get(f"{architecture}.rope.scaling.type", "none") != "none"
    is_known = header.get(_MODEL) == "gpt2" and header.get(_PRE) in model_types.GGUF_SPLITS
    return Need.NOTHING if kind.can_be_plain and is_known and not is_scaled else Need.CONFIGS
