"""Which architecture a model's files are of, what it is for, and whether it can be divided, read before any process
starts (case T11).

Owns: reading config.json or a GGUF header. Does not own: the supported set (architectures), the files of embedders
(purpose), or what must divide (cortex_neuron.shards).
Called by: residency, from a thread.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

from cortex_contracts.inventory.fleet import AskedTask
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron import shards
from cortex_neuron.residency import architectures, purpose
from cortex_neuron.residency.purpose import FilesInvalid, Purpose

_GGUF_MAGIC = b"GGUF"
_GGUF_KEY = "general.architecture"
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LONGEST_STRING = 1 << 24


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
        architecture = str(header[_GGUF_KEY])
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
        with path.open("rb") as file:
            return _read_header(file, whole=whole)
    except (OSError, ValueError, struct.error) as failure:
        raise FilesInvalid(f"{path}: is not a GGUF file that can be read: {failure}") from failure


def _read_header(file: BinaryIO, *, whole: bool) -> dict[str, Any]:
    """The metadata as the GGUF specification lays it out, or what comes before the architecture and that.

    The latter is the first in every file we know, and the vocabulary's many strings come after it. An array's place has
    its length.
    """
    if file.read(4) != _GGUF_MAGIC:
        raise ValueError("it does not begin with GGUF")
    _version, _tensors, pairs = struct.unpack("<IQQ", file.read(20))
    header: dict[str, Any] = {}
    for _ in range(pairs):
        key = _read_string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        header[key] = _read_value(file, kind)
        if _GGUF_KEY in header and not whole:
            break
    if not isinstance(header.get(_GGUF_KEY), str):
        raise ValueError(f"it has no {_GGUF_KEY}")
    return header


def _read_value(file: BinaryIO, kind: int) -> str | int | float | bool:
    if kind == _GGUF_STRING:
        return _read_string(file)
    if kind == _GGUF_ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        _skip(file, inner, count)
        return int(count)
    if kind not in _GGUF_SCALARS:
        raise ValueError(f"a value of unknown type {kind}")
    value: int | float | bool
    (value,) = struct.unpack(f"<{_GGUF_SCALARS[kind]}", file.read(struct.calcsize(_GGUF_SCALARS[kind])))
    return value


def _read_string(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    if size > _LONGEST_STRING:
        raise ValueError(f"a string of {size} bytes")
    return file.read(size).decode("utf-8")


def _skip(file: BinaryIO, kind: int, count: int) -> None:
    """The values of an array."""
    if kind in _GGUF_SCALARS:
        file.seek(count * struct.calcsize(_GGUF_SCALARS[kind]), 1)
        return
    for _ in range(count):
        _read_value(file, kind)
