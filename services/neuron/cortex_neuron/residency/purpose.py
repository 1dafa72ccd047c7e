"""What a model is for, and how its vectors are made, as its own files say.

Owns: the rule by which a folder is found to write, to embed or to rank, and the files of sentence-transformers beside
the weights. Does not own: which architectures each task has (architectures), or the computation (cortex_neuron.models).
Called by: architecture_check, before any process starts; the engine is told by `load`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.fleet import AskedTask, Task
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron.protocol.frames import Mode, Pooling
from cortex_neuron.residency import architectures

# Older files have a flag for each, `pooling_mode_` and the longer name; newer ones say it in a word.
_MODES: dict[str, Mode] = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
}
_FLAG = "pooling_mode_"


class FilesInvalid(Exception):
    """A model's files cannot be read; the message names the file."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """`pooling` and what follows are of an embedder. `cuts`: the dimensions it was trained for, None for any."""

    task: Task = "generate"
    pooling: Pooling | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    lowers: bool = False  # texts, before they are tokenised
    may_be_cut: bool = False
    cuts: frozenset[int] | None = None


def of_gguf(path: Path, asked: AskedTask) -> Purpose:
    """A GGUF file writes, and embeds where the catalogue says so. Raises UnsupportedArchitecture."""
    if asked == "rerank":
        raise UnsupportedArchitecture(f"{path}: a GGUF file is not supported with task rerank")
    return Purpose("embed", Pooling(mode="last")) if asked == "embed" else Purpose()


def of_folder(folder: Path, config: Mapping[str, Any], asked: AskedTask) -> Purpose:
    """Raises UnsupportedArchitecture or FilesInvalid."""
    try:
        return _of_folder(folder, config, asked)
    except (AttributeError, LookupError, TypeError, ValueError) as failure:
        raise FilesInvalid(
            f"{folder}: config.json, modules.json or another file beside them is not as it should be: "
            f"{type(failure).__name__}: {failure}"
        ) from failure


def _of_folder(folder: Path, config: Mapping[str, Any], asked: AskedTask) -> Purpose:
    task = _found(folder, config) if asked == "auto" else asked
    if task == "rerank":
        _check_labels(folder, config)
    if task != "embed":
        return Purpose(task)
    cuts = config.get("matryoshka_dimensions")
    reading = _object(folder / "sentence_bert_config.json")
    limit = reading.get("max_seq_length")
    return Purpose(
        task,
        _pooling(folder, str(config["model_type"]), None if limit is None else int(limit)),
        _prompts(folder),
        lowers=bool(reading.get("do_lower_case")),
        may_be_cut=bool(cuts or config.get("is_matryoshka")),
        cuts=frozenset(cuts) if cuts else None,
    )


def _found(folder: Path, config: Mapping[str, Any]) -> Task:
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return "rerank"
    has_no_head = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    is_encoder = config["model_type"] in architectures.ENCODER_TYPES
    return "embed" if has_no_head or is_encoder or (folder / "modules.json").exists() else "generate"


def _check_labels(folder: Path, config: Mapping[str, Any]) -> None:
    architecture = str((config.get("architectures") or [""])[0])
    if not architecture.endswith("ForSequenceClassification"):
        raise UnsupportedArchitecture(
            f"{folder}: architecture {architecture!r} is not supported with task rerank, "
            "expected one for sequence classification"
        )
    labels = len(config.get("id2label") or (0, 1))  # as transformers counts them
    if labels != 1:
        raise UnsupportedArchitecture(f"{folder}: it has {labels} labels; a model to rerank has 1")


# ---- the files of sentence-transformers


def _pooling(folder: Path, model_type: str, limit: int | None) -> Pooling:
    """As modules.json lists it; without one the mean of an encoder's vectors, and the last of a decoder's."""
    mode: Mode = "mean" if model_type in architectures.ENCODER_TYPES else "last"
    if not (folder / "modules.json").exists():
        return Pooling(mode=mode, limit=limit)
    modules = _read(folder / "modules.json", list)
    kinds = {str(module["type"]).rpartition(".")[2]: folder / str(module["path"]) for module in modules}
    if strange := sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"}):
        raise UnsupportedArchitecture(
            f"{folder}/modules.json: module {strange[0]} is not supported, expected Transformer, Pooling, Normalize"
        )
    if "Pooling" in kinds:
        mode = _mode(kinds["Pooling"] / "config.json")
    return Pooling(mode=mode, normalize="Normalize" in kinds, limit=limit)


def _mode(path: Path) -> Mode:
    config = _object(path)
    if config.get("include_prompt") is False:
        raise UnsupportedArchitecture(f"{path}: include_prompt false is not supported: who asks puts prompts in texts")
    said = config.get("pooling_mode")
    flags = [name.removeprefix(_FLAG) for name, is_on in config.items() if name.startswith(_FLAG) and is_on is True]
    on = [said] if isinstance(said, str) else flags
    if len(on) != 1 or on[0] not in _MODES:
        words = " and ".join(on) or "none"
        raise UnsupportedArchitecture(f"{path}: pooling {words} is not supported, expected one of {sorted(_MODES)}")
    return _MODES[on[0]]


def _prompts(folder: Path) -> dict[str, str]:
    prompts = _object(folder / "config_sentence_transformers.json").get("prompts") or {}
    return {str(name): str(text or "") for name, text in prompts.items()}


def _object(path: Path) -> dict[str, Any]:
    """Its content; empty where there is no such file. Raises FilesInvalid."""
    return dict(_read(path, dict)) if path.exists() else {}


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        raise FilesInvalid(f"{path}: cannot be read: {failure}") from failure
    if not isinstance(content, kind):
        raise FilesInvalid(f"{path}: cannot be read: it is no {kind.__name__}")
    return content
