"""The weights of a model on disk, read range by range.

Owns: opening safetensors files, one or several by index, and the count of bytes read from them. Does not own: which
ranges (models.checkpoint), or GGUF's container (models.gguf_file). Called by: models.loader, models.sharded_model.
"""

from __future__ import annotations

from collections.abc import KeysView
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cortex_neuron.models import text_files
from cortex_neuron.models.sharding import Range
from cortex_neuron.protocol.failures import CannotLoad

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class WeightSource(Protocol):
    """Whole tensors by name, of which parts can be had."""

    path: Path

    def names(self) -> KeysView[str]: ...

    def file_of(self, name: str) -> Path:
        """For error messages."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, dim: int, part: Range) -> Tensor:
        """The range of one dimension, counted from the end. A view of what is read: copy it."""


class SafetensorsFolder:
    """A folder's model.safetensors, or all the files of its index. Raises CannotLoad, which names the file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.num_bytes_read = 0
        self._files: dict[str, tuple[Path, Any]] = {}
        for path in _files(folder):
            file = _open(path)
            self._files |= dict.fromkeys(file.keys(), (path, file))

    def names(self) -> KeysView[str]:
        return self._files.keys()

    def file_of(self, name: str) -> Path:
        return self._files[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self) -> torch.dtype:
        """Of the first tensor."""
        found: torch.dtype = self._slice(next(iter(self._files)))[0:1].dtype
        return found

    def read(self, name: str, dim: int, part: Range) -> Tensor:
        stored = self._slice(name)
        before = (slice(None),) * (len(stored.get_shape()) + dim)
        tensor: Tensor = stored[(*before, slice(*part))]
        self.num_bytes_read += tensor.numel() * tensor.element_size()
        return tensor

    def _slice(self, name: str) -> Any:
        return self._files[name][1].get_slice(name)


def _files(folder: Path) -> list[Path]:
    if (folder / _ONE_FILE).exists():
        return [folder / _ONE_FILE]
    index = text_files.read_json(folder / _INDEX)
    if not index:
        raise CannotLoad(f"{folder}: there is neither {_ONE_FILE} nor {_INDEX}")
    return sorted({folder / name for name in index["weight_map"].values()})


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CannotLoad(f"{path}: cannot be read: {error}") from error


class WholeTensors:
    """Tensors that are in memory already, as a GGUF file's are once they have been dequantised."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path = path
        self._tensors = tensors

    def names(self) -> KeysView[str]:
        return self._tensors.keys()

    def file_of(self, name: str) -> Path:
        return self.path

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str, dim: int, part: Range) -> Tensor:
        return self._tensors[name].narrow(dim, part[0], part[1] - part[0])
