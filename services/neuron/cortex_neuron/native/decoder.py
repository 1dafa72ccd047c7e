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

from cortex_neuron.native.library import Layer, Model, Step, Weight, byref
from cortex_neuron.native.matrices import Matrices

BLOCK = 16  # positions of a block of the cache, as kernels/attention.h has it
HEAD_SIZE = 16  # heads must have a multiple of so many dimensions


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes; `epsilon` of the norms, `scale` of the scores."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    epsilon: float
    scale: float


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


@dataclass(frozen=True, slots=True)
class Batch:
    """A step, flat, int32: a row a token, a sequence's rows together.

    `slots` [rows]: where each row's key and value go, as block * 16 + place. `row_starts` [sequences + 1]. `pasts`:
    tokens in the cache before. `tables`: block ids, those of sequence i from table_starts[i] on. `wanted`: rows whose
    logits are asked for.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int32]
    row_starts: NDArray[np.int32]
    pasts: NDArray[np.int32]
    tables: NDArray[np.int32]
    table_starts: NDArray[np.int32]
    wanted: NDArray[np.int32]


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
        self.threads = threads
        self.rotation = rotation
        self._functions, self._matrices = functions, matrices
        self._layers = (Layer * len(layers))(*layers)
        model = Model(
            num_layers=len(layers),
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            intermediate=shape.intermediate,
            rotary=2 * len(rotation.frequencies),
            epsilon=shape.epsilon,
            scale=shape.scale,
            embedding=ends.embedding,
            head=ends.head,
            norm=ends.norm,
            layers=self._layers,
        )
        self._handle = ctypes.c_void_p(functions.cortex_decoder_new(byref(model), threads))

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._functions.cortex_decoder_delete(handle)

    def step(self, batch: Batch, keys: Any, values: Any, threads: int) -> NDArray[np.float32]:
        """Logits [wanted, vocabulary]; `keys` and `values` are `addresses` of the layers' caches."""
        cosines, sines = self.rotation.turns(batch.positions)
        logits = np.empty((len(batch.wanted), self.shape.vocabulary), np.float32)
        step = Step(
            rows=len(batch.tokens),
            sequences=len(batch.pasts),
            wanted_rows=len(batch.wanted),
            threads=threads,
            tokens=batch.tokens.ctypes.data,
            slots=batch.slots.ctypes.data,
            row_starts=batch.row_starts.ctypes.data,
            pasts=batch.pasts.ctypes.data,
            tables=batch.tables.ctypes.data,
            table_starts=batch.table_starts.ctypes.data,
            wanted=batch.wanted.ctypes.data,
            cosines=cosines.ctypes.data,
            sines=sines.ctypes.data,
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            logits=logits.ctypes.data,
        )
        self._functions.cortex_decoder_step(self._handle, byref(step))
        return logits


def addresses(pointers: Sequence[int]) -> Any:
    """An array of C pointers."""
    return (ctypes.c_void_p * len(pointers))(*pointers)
