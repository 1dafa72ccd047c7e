"""A model's tensors as the native kernels take them: checked, rounded where that was asked for, and packed.

Owns: reading a folder's, and the reader that packs. Does not own: a GGUF file's (models.gguf_model), which tensors a
model has (models.native_model), or the packed formats (native.matrices). Called by: models.native_model, models.loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from cortex_neuron.models import checkpoint
from cortex_neuron.models.weights import SafetensorsFolder
from cortex_neuron.native.library import Weight
from cortex_neuron.native.matrices import ROUNDED, Matrices, Stored, floats, rounded
from cortex_neuron.protocol.failures import CannotLoad

_ENDS = ("model.embed_tokens.weight", "lm_head.weight")
_STORED_DTYPES = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}
_GATE_UP = ("gate_proj", "up_proj")  # in this order where they are one tensor


class Files(Protocol):
    """A model's tensors by transformers' names."""

    path: Path

    def has(self, name: str) -> bool: ...

    def matrix(self, name: str) -> Stored:
        """As it is stored, or as floats where that cannot be packed."""

    def floats(self, name: str) -> NDArray[np.float32]:
        """As it is, in float32."""

    def router(self, layer: str) -> str:
        """The name of a layer's router."""

    def experts(self, layer: str, projection: str, count: int) -> Iterator[tuple[str, Stored]]:
        """gate_proj, up_proj or down_proj of each of a layer's experts, and the name of the tensor that it is in."""


class FolderFiles:
    """Those of a folder of safetensors."""

    def __init__(self, source: SafetensorsFolder, model_type: str) -> None:
        self.path = source.path
        self._source = source
        self._model_type = model_type

    def has(self, name: str) -> bool:
        return name in self._source.names()

    def matrix(self, name: str) -> Stored:
        return self._stored(name, self._whole(name))

    def floats(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._whole(name).float().numpy()
        return values

    def router(self, layer: str) -> str:
        stored = checkpoint.router(self._model_type, layer)
        return stored if self.has(stored) else f"{layer}.mlp.gate.weight"

    def experts(self, layer: str, projection: str, count: int) -> Iterator[tuple[str, Stored]]:
        fused = f"{layer}.mlp.experts.{'gate_up_proj' if projection in _GATE_UP else projection}"
        if self.has(fused):
            yield from self._parts(fused, projection, count)
            return
        for number in range(count):
            name = checkpoint.expert(self._model_type, layer, number, projection)
            if not self.has(name):
                raise CannotLoad(f"{self.path}: the files lack tensor {name}")
            yield name, self.matrix(name)

    def _parts(self, fused: str, projection: str, count: int) -> Iterator[tuple[str, Stored]]:
        """Of a tensor of all experts, which has both projections of _GATE_UP."""
        if (shape := self._source.shape(fused))[0] != count:
            raise CannotLoad(f"{self.path}: tensor {fused} is {list(shape)}, expected those of {count} experts")
        for number in range(count):
            tensor = self._source.read(fused, -3, (number, number + 1))[0]
            tensor = tensor.chunk(2)[_GATE_UP.index(projection)] if projection in _GATE_UP else tensor
            yield fused, self._stored(fused, tensor)

    def _stored(self, name: str, tensor: Tensor) -> Stored:
        rows, columns = tensor.shape
        if tensor.dtype not in _STORED_DTYPES:
            raise CannotLoad(f"{self._source.file_of(name)}: tensor {name} is {tensor.dtype}, which is not supported")
        return Stored(_STORED_DTYPES[tensor.dtype], (rows, columns), tensor.contiguous().view(torch.uint8).numpy())

    def _whole(self, name: str) -> Tensor:
        return self._source.read(name, -1, (0, self._source.shape(name)[-1]))


class Reader:
    """Checks shapes, rounds where that was asked for, packs. Raises CannotLoad, which names the tensor."""

    def __init__(self, files: Files, matrices: Matrices, quant: str | None, norms_lack: float) -> None:
        """`norms_lack`: by how much the weights of norms are more than what files have."""
        self._files = files
        self._norms_lack = norms_lack
        self._matrices = matrices
        self._kind = None if quant is None else ROUNDED[quant]

    def matrix(self, name: str, shape: tuple[int, int]) -> Weight:
        bias = None
        if self._files.has(f"{name}.bias"):
            bias = self._floats(f"{name}.bias", (shape[0],))
        return self._matrices.pack(self._stored(f"{name}.weight", shape), bias)

    def router(self, layer: str, shape: tuple[int, int]) -> Weight:
        """Never rounded: which experts it chooses is worth more than its few bytes."""
        return self._matrices.pack(self._checked(self._files.router(layer), shape))

    def experts(self, layer: str, projection: str, count: int, shape: tuple[int, int]) -> Weight:
        """One projection [rows, columns] of all experts of a layer, as one matrix."""
        return self._matrices.pack_together(self._experts(layer, projection, count, shape), count)

    def norm(self, name: str, size: int) -> int:
        return self._matrices.keep(self._floats(f"{name}.weight", (size,)) + np.float32(self._norms_lack))

    def norm_if_there(self, name: str, size: int) -> int | None:
        return self.norm(name, size) if self._files.has(f"{name}.weight") else None

    def _experts(self, layer: str, projection: str, count: int, shape: tuple[int, int]) -> Iterator[Stored]:
        first: GGMLQuantizationType | None = None
        for name, stored in self._files.experts(layer, projection, count):
            self._must_be(name, stored.shape, shape)
            first = stored.kind if first is None else first
            if stored.kind != first:
                raise CannotLoad(f"{self._files.path}: tensor {name} is {stored.kind.name}, others {first.name}")
            kind = self._kind
            yield stored if kind is None or _is_small(stored) else rounded(floats(stored), kind)

    def _stored(self, name: str, shape: tuple[int, int]) -> Stored:
        stored = self._checked(name, shape)
        if self._kind is None or _is_small(stored):
            return stored
        # What is before and after the layers is kept in 8 bits, as GGUF files have it: 4 cost the answers more there.
        kind = ROUNDED["int8"] if name in _ENDS else self._kind
        return rounded(self._files.floats(name), kind)

    def _checked(self, name: str, shape: tuple[int, int]) -> Stored:
        self._must_have(name)
        stored = self._files.matrix(name)
        self._must_be(name, stored.shape, shape)
        return stored

    def _floats(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        self._must_have(name)
        values = self._files.floats(name)
        self._must_be(name, values.shape, shape)
        return values

    def _must_have(self, name: str) -> None:
        if not self._files.has(name):
            raise CannotLoad(f"{self._files.path}: the files lack tensor {name}")

    def _must_be(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(found) != tuple(expected):
            raise CannotLoad(f"{self._files.path}: tensor {name} is {list(found)}, expected {list(expected)}")


def _is_small(stored: Stored) -> bool:
    """As small as what it could be rounded to, which would only lose."""
    return stored.kind in ROUNDED.values()
