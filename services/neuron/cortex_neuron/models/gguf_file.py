"""A GGUF file: its metadata and its tensors.

Owns: the container format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Does not own:
what names mean (models.gguf_model). The `gguf` package reads the same, but makes an object of each of a vocabulary's
strings: 3 seconds for 50,000 tokens where this takes a tenth. The blocks themselves are dequantised by it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from numpy.typing import NDArray
from torch import Tensor

from cortex_neuron.protocol.failures import CannotLoad

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SIZE = struct.Struct("<Q")
_VERSIONS = (2, 3)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    name: str
    shape: tuple[int, ...]  # torch's order
    kind: GGMLQuantizationType
    start: int  # byte of the file
    num_bytes: int


class GgufFile:
    """An open file. `metadata` has every key, arrays as lists. Raises CannotLoad when it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.metadata, self.tensors = _parse(_Cursor(self._bytes))
        except (struct.error, ValueError, LookupError, ArithmeticError) as error:
            raise CannotLoad(f"{path} is not a GGUF file that can be read: {error}") from error
        end = max((entry.start + entry.num_bytes for entry in self.tensors), default=0)
        if end > len(self._bytes):
            raise CannotLoad(f"{path} is cut short: it has {len(self._bytes)} bytes, its tensors need {end}")

    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def float_tensors(self, threads: int) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, dequantised to float32, in the file's order."""
        # numpy lets go of the interpreter in its loops, so threads help.
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(lambda entry: (entry.name, self.float_tensor(entry)), self.tensors)

    def rows(self, entry: TensorEntry) -> NDArray[np.uint8]:
        """A tensor's bytes as the file has them, [rows, bytes of a row]: a view of the file."""
        data = np.frombuffer(self._bytes, np.uint8, entry.num_bytes, entry.start)
        return data.reshape(-1, entry.num_bytes * entry.shape[-1] // int(np.prod(entry.shape)))

    def float_tensor(self, entry: TensorEntry) -> Tensor:
        """A tensor, dequantised to float32."""
        data = self.rows(entry)
        if entry.kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            data = data.view(np.float32 if entry.kind == GGMLQuantizationType.F32 else np.float16)
            return torch.from_numpy(data.astype(np.float32)).view(entry.shape)
        return torch.from_numpy(dequantize(data, entry.kind)).view(entry.shape)


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """One after the other. A vocabulary is hundreds of thousands: a call for each would be half of a small load."""
        data, at, size_at = self.data, self.at, _SIZE.unpack_from
        found = []
        for _ in range(count):
            start = at + _SIZE.size
            at = start + size_at(data, at)[0]
            found.append(data[start:at].decode())
        self.at = at
        return found

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        item, count = self.scalar("I"), self.scalar("Q")
        if item in _SCALARS:
            layout = f"<{count}{_SCALARS[item]}"
            values = struct.unpack_from(layout, self.data, self.at)
            self.at += struct.calcsize(layout)
            return list(values)
        return self.strings(count) if item == _STRING else [self.value(item) for _ in range(count)]


def _parse(cursor: _Cursor) -> tuple[dict[str, Any], list[TensorEntry]]:
    if cursor.data[:4] != b"GGUF":
        raise ValueError("it does not start with GGUF")
    cursor.at = 4
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version}, expected one of {_VERSIONS}")
    num_tensors, num_keys = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    table = [_tensor_row(cursor) for _ in range(num_tensors)]
    alignment = int(metadata.get("general.alignment", 32))
    start = -(-cursor.at // alignment) * alignment
    return metadata, [_entry(name, shape, kind, start + offset) for name, shape, kind, offset in table]


def _tensor_row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    dims = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
    return name, tuple(reversed(dims)), cursor.scalar("I"), cursor.scalar("Q")


def _entry(name: str, shape: tuple[int, ...], kind: int, start: int) -> TensorEntry:
    quant = GGMLQuantizationType(kind)
    block, block_bytes = GGML_QUANT_SIZES[quant]
    return TensorEntry(name, shape, quant, start, int(np.prod(shape)) // block * block_bytes)
