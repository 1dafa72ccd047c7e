"""Weight matrices in the order that the kernels read them; see kernels/weights.h.

Owns: which stored format becomes which packed one, and the memory. Does not own: the names of a model's matrices
(models.native_model).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize, quantize
from numpy.typing import NDArray

from cortex_neuron.native.huge_pages import HugePages
from cortex_neuron.native.library import Weight

_F32, _F16, _BF16, _Q8, _Q4, _Q4_WIDE, _Q8_WIDE = range(7)
# What is stored, by GGML's type, and what it is packed as; every one of them exactly.
_KINDS = {
    GGMLQuantizationType.F32: _F32,
    GGMLQuantizationType.F16: _F16,
    GGMLQuantizationType.BF16: _BF16,
    GGMLQuantizationType.Q8_0: _Q8,
    GGMLQuantizationType.Q4_0: _Q4,
    GGMLQuantizationType.Q4_1: _Q4,
    GGMLQuantizationType.Q4_K: _Q4_WIDE,
    GGMLQuantizationType.Q5_K: _Q8_WIDE,
    GGMLQuantizationType.Q6_K: _Q8_WIDE,
}
# The catalogue's `quant`: rounded to these while it is loaded.
ROUNDED = {"int8": GGMLQuantizationType.Q8_0, "int4": GGMLQuantizationType.Q4_1}
COLUMNS = 32  # a matrix must have a multiple of so many; of rows, too, where several are packed together


@dataclass(frozen=True, slots=True)
class Stored:
    """A matrix as a file has it: [rows, columns] in `kind`, each row's bytes in `data` [rows, bytes].

    `order`: row i of the matrix is the order[i]-th of these; None where they are in order.
    """

    kind: GGMLQuantizationType
    shape: tuple[int, int]
    data: NDArray[np.uint8]
    order: NDArray[np.int32] | None = None


def is_packable(kind: GGMLQuantizationType) -> bool:
    """Whether a matrix of this kind is kept as it is; others must become floats before."""
    return kind in _KINDS


def of_floats(values: NDArray[np.float32], order: NDArray[np.int32] | None = None) -> Stored:
    """A matrix [rows, columns] that is in memory as floats."""
    rows, columns = values.shape
    return Stored(GGMLQuantizationType.F32, (rows, columns), np.ascontiguousarray(values).view(np.uint8), order)


def floats(stored: Stored) -> NDArray[np.float32]:
    """A matrix's values [rows, columns] in float32, in order."""
    values: NDArray[np.float32] = dequantize(stored.data, stored.kind).reshape(stored.shape)
    return values if stored.order is None else values[stored.order]


def rounded(values: NDArray[np.float32], kind: GGMLQuantizationType) -> Stored:
    """A matrix of floats [rows, columns], rounded to a kind of GGML's."""
    rows, columns = values.shape
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return Stored(kind, (rows, columns), quantize(values, kind).reshape(rows, columns // block * block_bytes))


class Matrices:
    """Packs matrices and keeps their memory, page by page of its own: what is packed is never moved."""

    def __init__(self, functions: Any, threads: int) -> None:
        self._functions = functions
        self._threads = threads
        self._kept: list[Any] = []
        self._memory = HugePages()
        self.num_bytes = 0

    def pack(self, stored: Stored, bias: NDArray[np.float32] | None = None) -> Weight:
        """The packed matrix."""
        weight = self._room(_KINDS[stored.kind], *stored.shape)
        weight.bias = None if bias is None else self.keep(bias)
        self._pack_into(weight, stored)
        return weight

    def pack_together(self, matrices: Iterable[Stored], count: int) -> Weight:
        """`count` matrices of one kind and shape as a single one, whose rows are all of theirs.

        So that each begins with a panel of its own, they have a multiple of COLUMNS rows.
        """
        whole: Weight | None = None
        for index, stored in enumerate(matrices):
            rows, columns = stored.shape
            kind = _KINDS[stored.kind]
            assert rows % COLUMNS == 0, stored.shape
            if whole is None:
                whole = self._room(kind, rows * count, columns)
            assert (kind, rows * count, columns) == (whole.kind, whole.rows, whole.columns), stored.shape
            start = whole.data + index * self._functions.cortex_packed_size(kind, rows, columns)
            self._pack_into(Weight(kind, rows, columns, start, None), stored)
        assert whole is not None, count
        return whole

    def _room(self, kind: int, rows: int, columns: int) -> Weight:
        place = self._memory.take(self._functions.cortex_packed_size(kind, rows, columns))
        self._kept.append(place)
        self.num_bytes += place.nbytes
        return Weight(kind, rows, columns, place.ctypes.data, None)

    def _pack_into(self, weight: Weight, stored: Stored) -> None:
        order = None if stored.order is None else stored.order.ctypes.data
        self._functions.cortex_pack(
            int(stored.kind), stored.data.ctypes.data, order, ctypes.byref(weight), self._threads
        )

    def keep(self, values: NDArray[np.float32]) -> int:
        """The address of a vector that stays where it is."""
        vector = np.ascontiguousarray(values, np.float32)
        self._kept.append(vector)
        self.num_bytes += vector.nbytes
        address: int = vector.ctypes.data
        return address
