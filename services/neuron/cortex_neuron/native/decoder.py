"""A model whose steps the kernels compute.

Owns: the structures that describe it to them, and the call. Does not own: where its weights come from
(models.native_model) or the batch (engine.native_runner).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cortex_neuron.layers.batch import Batch, Ints
from cortex_neuron.native.library import Layer, Model, Step, Weight
from cortex_neuron.native.matrices import Matrices

BLOCK = 16  # positions of a block of the cache, as kernels/attention.h has it
HEAD_SIZE = 16  # heads must have a multiple of so many dimensions


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes; `epsilon` of the norms, `scale` of the scores.

    A row is sent to `chosen_experts`, whose shares are made to add up to 1 if `whole_shares`.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    epsilon: float
    scale: float
    chosen_experts: int
    whole_shares: bool


@dataclass(frozen=True, slots=True)
class Rotation:
    """How positions turn queries and keys: angles are position * frequencies [rotary / 2], and `factor` stretches."""

    frequencies: NDArray[np.float32]
    factor: float

    def turns(self, positions: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines [rows, rotary / 2] of positions [rows]."""
        angles = positions[:, None].astype(np.float32) * self.frequencies
        return np.cos(angles) * np.float32(self.factor), np.sin(angles) * np.float32(self.factor)


@dataclass(frozen=True, slots=True)
class Ends:
    """What is before and after the layers; `head` is `embedding` where they are tied."""

    embedding: Weight
    head: Weight
    norm: int  # address


class Decoder:
    """`num_bytes`: of its weights. Gone with its memory once nothing refers to it."""

    def __init__(
        self,
        functions: Any,
        shape: Shape,
        rotation: Rotation,
        ends: Ends,
        layers: Sequence[Layer],
        matrices: Matrices,
        threads: int,
    ) -> None:
        self.shape = shape
        self.num_bytes = matrices.num_bytes
        self.rotation = rotation
        self._functions, self._matrices = functions, matrices
        self._layers = (Layer * len(layers))(*layers)
        model = Model(
            num_layers=len(layers),
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            rotary=2 * len(rotation.frequencies),
            chosen_experts=shape.chosen_experts,
            whole_shares=shape.whole_shares,
            epsilon=shape.epsilon,
            scale=shape.scale,
            embedding=ends.embedding,
            head=ends.head,
            norm=ends.norm,
            layers=self._layers,
        )
        self._handle = ctypes.c_void_p(functions.cortex_decoder_new(ctypes.byref(model), threads))

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._functions.cortex_decoder_delete(handle)

    def step(self, batch: Batch, keys: Any, values: Any) -> NDArray[np.float32]:
        """Logits [wanted, vocabulary] after the rows that are wanted.

        `keys` and `values` are `addresses` of the layers' caches, in blocks of BLOCK.
        """
        cosines, sines = self.rotation.turns(batch.positions)
        logits = np.empty((len(batch.wanted), self.shape.vocabulary), np.float32)
        step = Step(
            rows=batch.num_rows,
            sequences=len(batch.pasts),
            wanted_rows=len(batch.wanted),
            tokens=_address(batch.tokens),
            slots=_address(batch.slots),
            row_starts=_address(batch.starts),
            pasts=_address(batch.pasts),
            tables=_address(batch.tables),
            table_starts=_address(batch.table_starts),
            wanted=_address(batch.wanted),
            cosines=_address(cosines),
            sines=_address(sines),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            logits=_address(logits),
        )
        self._functions.cortex_decoder_step(self._handle, ctypes.byref(step))
        return logits


def _address(array: Ints | NDArray[np.float32]) -> int:
    """Of an array as the kernels read it."""
    assert array.flags.c_contiguous, array.strides
    assert array.itemsize == 4, array.dtype
    address: int = array.ctypes.data
    return address


def addresses(pointers: Sequence[int]) -> Any:
    """An array of C pointers."""
    return (ctypes.c_void_p * len(pointers))(*pointers)
