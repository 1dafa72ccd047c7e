"""Which architecture a model's files are of, read before any process starts (case T11).

Owns: the few bytes of config.json or of a GGUF header that say so. Does not own: the supported set (architectures).
Called by: residency, from a thread.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import BinaryIO

from cortex_neuron.residency import architectures

_GGUF_MAGIC = b"GGUF"
_GGUF_KEY = "general.architecture"
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by value type
_LONGEST_STRING = 1 << 24


class FilesInvalid(Exception):
    """A model's files cannot be read; the message names the file."""


def check(source: Path) -> None:
    """Raises UnsupportedArchitecture or FilesInvalid."""
    if source.is_dir():
        architectures.check(_model_type(source / "config.json"))
    else:
        architectures.check_gguf(_gguf_architecture(source))


def _model_type(path: Path) -> str:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError) as failure:
        raise FilesInvalid(f"{path}: cannot be read: {failure}") from failure
    except (KeyError, TypeError) as failure:
        raise FilesInvalid(f"{path}: has no model_type") from failure


def _gguf_architecture(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _read_architecture(file)
    except (OSError, ValueError, struct.error) as failure:
        raise FilesInvalid(f"{path}: is not a GGUF file that can be read: {failure}") from failure


def _read_architecture(file: BinaryIO) -> str:
    """Walk the metadata as the GGUF specification lays it out; the key is the first in every file we know."""
    if file.read(4) != _GGUF_MAGIC:
        raise ValueError("it does not begin with GGUF")
    _version, _tensors, pairs = struct.unpack("<IQQ", file.read(20))
    for _ in range(pairs):
        key = _read_string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        if key == _GGUF_KEY and kind == _GGUF_STRING:
            return _read_string(file)
        _skip(file, kind)
    raise ValueError(f"it has no {_GGUF_KEY}")


def _read_string(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    if size > _LONGEST_STRING:
        raise ValueError(f"a string of {size} bytes")
    return file.read(size).decode("utf-8")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        _read_string(file)
    elif kind == _GGUF_ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _GGUF_SIZES:
            file.seek(count * _GGUF_SIZES[inner], 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    elif kind in _GGUF_SIZES:
        file.seek(_GGUF_SIZES[kind], 1)
    else:
        raise ValueError(f"a value of unknown type {kind}")
