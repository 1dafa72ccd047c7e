"""Which architecture a model's files are of, what it is for, and whether it can be divided, read before any process
starts (case T11).

Owns: what is judged. Does not own: a GGUF header (gguf_header), the supported set (architectures), the files of
embedders (purpose), or what must divide (cortex_neuron.shards). Called by: residency, from a thread.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.fleet import AskedTask
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron import shards
from cortex_neuron.residency import architectures, gguf_header, purpose
from cortex_neuron.residency.purpose import FilesInvalid, Purpose


def check(source: Path, world_size: int = 1, asked: AskedTask = "auto") -> Purpose:
    """What it is for. Raises UnsupportedArchitecture, also for what cannot be divided over so many ranks, or
    FilesInvalid."""
    if source.is_dir():
        config = _config(source / "config.json")
        found = purpose.of_folder(source, config, asked)
        architectures.check(str(config["model_type"]), found.task)
        figures = shards.figures_of(config)
    else:
        header = _gguf_header(source, whole=world_size > 1)
        architecture = str(header[gguf_header.ARCHITECTURE])
        architectures.check_gguf(architecture)
        found = purpose.of_gguf(source, asked)
        figures = shards.figures_of_gguf(header, architecture)
    if found.task != "generate" and world_size > 1:
        raise UnsupportedArchitecture(f"task {found.task} is not divided: it takes 1 device, not {world_size}")
    architectures.check_tensor_parallel(figures, world_size)
    return found


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as failure:
        raise FilesInvalid(f"{path}: cannot be read: {failure}") from failure
    if "model_type" not in config:
        raise FilesInvalid(f"{path}: has no model_type")
    return config


def _gguf_header(path: Path, *, whole: bool) -> dict[str, Any]:
    try:
        return gguf_header.read(path, None if whole else {gguf_header.ARCHITECTURE})
    except (OSError, ValueError, struct.error) as failure:
        raise FilesInvalid(f"{path}: is not a GGUF file that can be read: {failure}") from failure
