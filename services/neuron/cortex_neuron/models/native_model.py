"""A model put together for the native kernels, straight from its files.

Owns: which models can be (the Llama kind, whole, on a CPU), and the names of their weights. Does not own: formats
(models.gguf_*, models.weights) or the packed ones (native.matrices). Called by: models.loader, which falls back to
transformers' modules.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from cortex_neuron import native_config
from cortex_neuron.models.weights import SafetensorsFolder
from cortex_neuron.native.decoder import HEAD_SIZE, Decoder, Ends, Rotation, Shape
from cortex_neuron.native.library import Layer, Weight, library
from cortex_neuron.native.matrices import COLUMNS, ROUNDED, Matrices, Stored, rounded
from cortex_neuron.protocol.failures import CannotLoad

# Those whose layers are what kernels/decoder.cpp computes; each agrees with transformers' logits, by test.
MODEL_TYPES = tuple(native_config.CLASSES)
_ENDS = ("model.embed_tokens.weight", "lm_head.weight")
_STORED_DTYPES = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}


class Files(Protocol):
    """A model's tensors by transformers' names."""

    path: Path

    def has(self, name: str) -> bool: ...

    def matrix(self, name: str) -> Stored:
        """As it is stored, or as floats where that cannot be packed."""

    def floats(self, name: str) -> NDArray[np.float32]:
        """As it is, in float32."""


class FolderFiles:
    """Those of a folder of safetensors."""

    def __init__(self, source: SafetensorsFolder) -> None:
        self.path = source.path
        self._source = source

    def has(self, name: str) -> bool:
        return name in self._source.names()

    def matrix(self, name: str) -> Stored:
        tensor = self._whole(name).contiguous()
        rows, columns = tensor.shape
        if tensor.dtype not in _STORED_DTYPES:
            raise CannotLoad(f"{self._source.file_of(name)}: tensor {name} is {tensor.dtype}, which is not supported")
        return Stored(_STORED_DTYPES[tensor.dtype], (rows, columns), tensor.view(torch.uint8).numpy())

    def floats(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._whole(name).float().numpy()
        return values

    def _whole(self, name: str) -> Tensor:
        return self._source.read(name, -1, (0, self._source.shape(name)[-1]))


def is_native(config: Any) -> bool:
    """Whether the kernels are here, and compute what this config says."""
    if library() is None or config.model_type not in MODEL_TYPES or config.hidden_act != "silu":
        return False
    shape = _shape(config)
    widths = (shape.hidden, shape.intermediate, shape.heads * shape.head_size)
    return shape.head_size % HEAD_SIZE == 0 and all(width % COLUMNS == 0 for width in widths)


def build(
    files: Files,
    config: Any,
    quant: str | None,
    threads: int,
    factors: Tensor | None,
    progress: Callable[[float], None],
) -> Decoder:
    """The decoder, its matrices kept as they are stored, or rounded to `quant`. Raises CannotLoad.

    `factors` [rotary / 2] divide the frequencies of rotation: Llama 3's, of a GGUF file.
    """
    functions = library()
    assert functions is not None, "is_native has said so"
    shape = _shape(config)
    matrices = Matrices(functions, threads)
    reader = _Reader(files, matrices, quant)
    embedding = reader.matrix("model.embed_tokens", (shape.vocabulary, shape.hidden))
    tied = config.tie_word_embeddings or not files.has("lm_head.weight")
    head = embedding if tied else reader.matrix("lm_head", (shape.vocabulary, shape.hidden))
    ends = Ends(embedding, head, reader.vector("model.norm", shape.hidden))
    layers = []
    for index in range(config.num_hidden_layers):
        layers.append(_layer(reader, config, shape, index))
        progress((index + 1) / config.num_hidden_layers)
    return Decoder(functions, shape, _rotation(config, factors), ends, layers, matrices, threads)


def _shape(config: Any) -> Shape:
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=head_size,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        epsilon=config.rms_norm_eps,
        scale=head_size**-0.5,
    )


def _rotation(config: Any, factors: Tensor | None) -> Rotation:
    kind = config.rope_parameters["rope_type"]
    frequencies, scaling = _plain(config) if kind == "default" else _scaled(config, kind)
    frequencies = frequencies if factors is None else frequencies / factors
    return Rotation(frequencies.float().numpy(), float(scaling))


def _scaled(config: Any, kind: str) -> tuple[Tensor, float]:
    """Of a config that transformers has read: models.native_config has no plain one of it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config)
    return frequencies, scaling


def _plain(config: Any) -> tuple[Tensor, float]:
    """Frequencies [head_size / 2], as transformers' modules compute them where nothing is scaled."""
    size = _shape(config).head_size
    return 1.0 / (config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)), 1.0


def _layer(reader: _Reader, config: Any, shape: Shape, index: int) -> Layer:
    at = f"model.layers.{index}"
    attention, mlp = f"{at}.self_attn", f"{at}.mlp"
    hidden, inner = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    return Layer(
        input_norm=reader.vector(f"{at}.input_layernorm", hidden),
        output_norm=reader.vector(f"{at}.post_attention_layernorm", hidden),
        query_norm=reader.vector_if_there(f"{attention}.q_norm", shape.head_size),
        key_norm=reader.vector_if_there(f"{attention}.k_norm", shape.head_size),
        query=reader.matrix(f"{attention}.q_proj", (queries, hidden)),
        key=reader.matrix(f"{attention}.k_proj", (keys, hidden)),
        value=reader.matrix(f"{attention}.v_proj", (keys, hidden)),
        output=reader.matrix(f"{attention}.o_proj", (hidden, queries)),
        gate=reader.matrix(f"{mlp}.gate_proj", (inner, hidden)),
        up=reader.matrix(f"{mlp}.up_proj", (inner, hidden)),
        down=reader.matrix(f"{mlp}.down_proj", (hidden, inner)),
        window=_window(config, index),
        rotated=_is_rotated(config, index),
    )


def _window(config: Any, index: int) -> int:
    """Positions that a query of this layer sees, 0 for all."""
    kinds = getattr(config, "layer_types", None)
    slides = kinds[index] == "sliding_attention" if kinds else config.model_type == "mistral"
    return (getattr(config, "sliding_window", None) or 0) if slides else 0


def _is_rotated(config: Any, index: int) -> bool:
    rotated = getattr(config, "no_rope_layers", None)  # which says 1 where there is one
    return bool(rotated[index]) if rotated else True


class _Reader:
    """Checks shapes, rounds where that was asked for, packs."""

    def __init__(self, files: Files, matrices: Matrices, quant: str | None) -> None:
        self._files = files
        self._matrices = matrices
        self._kind = None if quant is None else ROUNDED[quant]

    def matrix(self, name: str, shape: tuple[int, int]) -> Weight:
        bias = None
        if self._files.has(f"{name}.bias"):
            bias = self._floats(f"{name}.bias", (shape[0],))
        return self._matrices.pack(self._stored(f"{name}.weight", shape), bias)

    def vector(self, name: str, size: int) -> int:
        return self._matrices.keep(self._floats(f"{name}.weight", (size,)))

    def vector_if_there(self, name: str, size: int) -> int | None:
        return self.vector(name, size) if self._files.has(f"{name}.weight") else None

    def _stored(self, name: str, shape: tuple[int, int]) -> Stored:
        self._must_have(name)
        stored = self._files.matrix(name)
        self._must_be(name, stored.shape, shape)
        if self._kind is None or stored.kind in ROUNDED.values():  # it is as small already, and would only lose
            return stored
        # What is before and after the layers is kept in 8 bits, as GGUF files have it: 4 cost the answers more there.
        kind = ROUNDED["int8"] if name in _ENDS else self._kind
        return rounded(self._files.floats(name), kind)

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
