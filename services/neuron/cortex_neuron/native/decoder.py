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
# By transformers' name, an Activation of kernels/model.h.
ACTIVATIONS = {"silu": 0, "gelu_pytorch_tanh": 1}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes; `epsilon` of the norms, `scale` of the scores.

    A row is sent to `chosen_experts`, whose shares are made to add up to 1 if `whole_shares`. Caps are 0 where there is
    none.
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
    activation: int
    embedding_scale: float
    score_cap: float
    logit_cap: float


@dataclass(frozen=True, slots=True)
class Rotations:
    """How positions turn queries and keys, in one way or several: angles are position * frequencies
    [ways, rotary / 2], and `factors` [ways] stretch."""

    frequencies: NDArray[np.float32]
    factors: NDArray[np.float32]

    def turns(self, positions: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines [ways, rows, rotary / 2] of positions [rows]."""
        angles = positions[None, :, None].astype(np.float32) * self.frequencies[:, None]
        factors = self.factors[:, None, None]
        return np.cos(angles) * factors, np.sin(angles) * factors


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
        rotations: Rotations,
        ends: Ends,
        layers: Sequence[Layer],
        matrices: Matrices,
        threads: int,
    ) -> None:
        self.shape = shape
        self.num_bytes = matrices.num_bytes
        self.rotations = rotations
        self._functions, self._matrices = functions, matrices
        self._layers = (Layer * len(layers))(*layers)
        model = Model(
            num_layers=len(layers),
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            rotary=2 * rotations.frequencies.shape[1],
            chosen_experts=shape.chosen_experts,
            whole_shares=shape.whole_shares,
            activation=shape.activation,
            epsilon=shape.epsilon,
            scale=shape.scale,
            embedding_scale=shape.embedding_scale,
            score_cap=shape.score_cap,
            logit_cap=shape.logit_cap,
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
        cosines, sines = self.rotations.turns(batch.positions)
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
