"""The metadata at the head of a GGUF file, as far as somebody wants it before any process starts.

Owns: the layout, as the GGUF specification has it. Does not own: what keys mean, or tensors (models.gguf_file, in a
rank). Called by: architecture_check, fork_source.
"""

from __future__ import annotations

import struct
from collections.abc import Set
from pathlib import Path
from typing import Any, BinaryIO

ARCHITECTURE = "general.architecture"
_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LONGEST_STRING = 1 << 24


def read(path: Path, wanted: Set[str] | None) -> dict[str, Any]:
    """The metadata up to the last of the `wanted` keys, or all. An array's place has its length.

    The architecture is the first in every file we know, and the vocabulary's many strings come after all that is short.
    Raises OSError, ValueError, struct.error.
    """
    with path.open("rb") as file:
        return _read(file, wanted)


def _read(file: BinaryIO, wanted: Set[str] | None) -> dict[str, Any]:
    if file.read(4) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    _version, _tensors, pairs = struct.unpack("<IQQ", file.read(20))
    header: dict[str, Any] = {}
    for _ in range(pairs):
        key = _read_string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        header[key] = _read_value(file, kind)
        if wanted is not None and wanted <= header.keys():
            break
    if not isinstance(header.get(ARCHITECTURE), str):
        raise ValueError(f"it has no {ARCHITECTURE}")
    return header


def _read_value(file: BinaryIO, kind: int) -> str | int | float | bool:
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        _skip(file, inner, count)
        return int(count)
    if kind not in _SCALARS:
        raise ValueError(f"a value of unknown type {kind}")
    value: int | float | bool
    (value,) = struct.unpack(f"<{_SCALARS[kind]}", file.read(struct.calcsize(_SCALARS[kind])))
    return value


def _read_string(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    if size > _LONGEST_STRING:
        raise ValueError(f"a string of {size} bytes")
    return file.read(size).decode("utf-8")


def _skip(file: BinaryIO, kind: int, count: int) -> None:
    """The values of an array."""
    if kind in _SCALARS:
        file.seek(count * struct.calcsize(_SCALARS[kind]), 1)
        return
    for _ in range(count):
        _read_value(file, kind)
