"""A model put together for the native kernels, straight from its files.

Owns: which models can be (decoders of some kinds, whole, on a CPU), and the names of their weights. Does not own: how
those are read and packed (models.native_files), formats (models.gguf_*, models.weights) or the packed ones
(native.matrices). Called by: models.loader, which falls back to transformers' modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cortex_neuron import native_config
from cortex_neuron.models.native_files import Files, Reader
from cortex_neuron.native.decoder import ACTIVATIONS, HEAD_SIZE, Decoder, Ends, Rotations, Shape
from cortex_neuron.native.library import Layer, Weight, library
from cortex_neuron.native.matrices import COLUMNS, Matrices
from cortex_neuron.protocol.failures import CannotLoad

# Those whose layers are what kernels/decoder.h computes; each agrees with transformers' logits, by test.
MODEL_TYPES = tuple(native_config.CLASSES)
_GEMMAS = ("gemma2", "gemma3_text")
_WITH_EXPERTS = ("mixtral", "qwen3_moe")
_SLIDING_THROUGHOUT = ("mistral", "mixtral", "qwen3_moe")  # every layer does, where the config has a window


def is_native(config: Any) -> bool:
    """Whether the kernels are here, and compute what this config says."""
    if library() is None or config.model_type not in MODEL_TYPES or _activation(config) not in ACTIVATIONS:
        return False
    if getattr(config, "use_bidirectional_attention", None):
        return False
    shape = _shape(config)
    inner = {_inner(config, index) for index in range(config.num_hidden_layers)}
    widths = (shape.hidden, shape.heads * shape.head_size, *inner)
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
    _check_experts(files, config)
    shape = _shape(config)
    matrices = Matrices(functions, threads)
    reader = Reader(files, matrices, quant, norms_lack=1.0 if config.model_type in _GEMMAS else 0.0)
    embedding = reader.matrix("model.embed_tokens", (shape.vocabulary, shape.hidden))
    tied = config.tie_word_embeddings or not files.has("lm_head.weight")
    head = embedding if tied else reader.matrix("lm_head", (shape.vocabulary, shape.hidden))
    ends = Ends(embedding, head, reader.norm("model.norm", shape.hidden))
    layers = []
    for index in range(config.num_hidden_layers):
        layers.append(_layer(reader, config, shape, index))
        progress((index + 1) / config.num_hidden_layers)
    return Decoder(functions, shape, _rotations(config, factors), ends, layers, matrices, threads)


def _shape(config: Any) -> Shape:
    heads, kind = config.num_attention_heads, config.model_type
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=head_size,
        vocabulary=config.vocab_size,
        epsilon=config.rms_norm_eps,
        scale=(config.query_pre_attn_scalar if kind in _GEMMAS else head_size) ** -0.5,
        chosen_experts=config.num_experts_per_tok if kind in _WITH_EXPERTS else 0,
        whole_shares=kind == "mixtral" or (kind == "qwen3_moe" and config.norm_topk_prob),
        activation=ACTIVATIONS.get(_activation(config), -1),
        embedding_scale=config.hidden_size**0.5 if kind in _GEMMAS else 1.0,
        # Gemma 3 has the field, and transformers makes no use of it.
        score_cap=(config.attn_logit_softcapping or 0.0) if kind == "gemma2" else 0.0,
        logit_cap=(config.final_logit_softcapping or 0.0) if kind in _GEMMAS else 0.0,
    )


def _activation(config: Any) -> str:
    return str(config.hidden_activation if config.model_type in _GEMMAS else config.hidden_act)


def _check_experts(files: Files, config: Any) -> None:
    """A row cannot be sent to more experts than there are."""
    most = max(_experts(config, index) for index in range(config.num_hidden_layers))
    if most and not 0 < config.num_experts_per_tok <= most:
        raise CannotLoad(f"{files.path}: num_experts_per_tok is {config.num_experts_per_tok}, of {most} experts")


def _experts(config: Any, index: int) -> int:
    """Experts of this layer, 0 for one that is dense."""
    if config.model_type not in _WITH_EXPERTS:
        return 0
    if config.model_type == "qwen3_moe":
        skipped = (index + 1) % config.decoder_sparse_step != 0
        if skipped or index in config.mlp_only_layers:
            return 0
    return int(config.num_local_experts)


def _inner(config: Any, index: int) -> int:
    """Width of this layer's feed-forward part, or of each of its experts."""
    has_own = config.model_type == "qwen3_moe" and _experts(config, index)  # mixtral's are as wide as others' layers
    return int(config.moe_intermediate_size if has_own else config.intermediate_size)


def _ways(config: Any) -> tuple[str | None, ...]:
    """The kinds of layers that turn in a way of their own, or one for all."""
    return ("sliding_attention", "full_attention") if "full_attention" in config.rope_parameters else (None,)


def _rotations(config: Any, factors: Tensor | None) -> Rotations:
    ways = [_rotation(config, kind) for kind in _ways(config)]
    frequencies = torch.stack([each for each, _ in ways])
    frequencies = frequencies if factors is None else frequencies / factors
    return Rotations(frequencies.float().numpy(), np.array([scaling for _, scaling in ways], np.float32))


def _rotation(config: Any, kind: str | None) -> tuple[Tensor, float]:
    """Frequencies [rotary / 2] and how much they stretch."""
    parameters = config.rope_parameters if kind is None else config.rope_parameters[kind]
    if (scaled := parameters.get("rope_type", "default")) != "default":
        return _scaled(config, scaled, kind)
    # As transformers' modules compute them where nothing is scaled.
    size = _shape(config).head_size
    return 1.0 / (parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)), 1.0


def _scaled(config: Any, scaled: str, kind: str | None) -> tuple[Tensor, float]:
    """Of a config that transformers has read: native_config has no plain one of it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, scaling = ROPE_INIT_FUNCTIONS[scaled](config, layer_type=kind)
    return frequencies, float(scaling)


def _layer(reader: Reader, config: Any, shape: Shape, index: int) -> Layer:
    at = f"model.layers.{index}"
    attention, hidden = f"{at}.self_attn", shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = Layer(
        query_norm=reader.norm_if_there(f"{attention}.q_norm", shape.head_size),
        key_norm=reader.norm_if_there(f"{attention}.k_norm", shape.head_size),
        query=reader.matrix(f"{attention}.q_proj", (queries, hidden)),
        key=reader.matrix(f"{attention}.k_proj", (keys, hidden)),
        value=reader.matrix(f"{attention}.v_proj", (keys, hidden)),
        output=reader.matrix(f"{attention}.o_proj", (hidden, queries)),
        window=_window(config, index),
        rotation=_way(config, index),
    )
    _add_norms(layer, reader, at, hidden, config.model_type in _GEMMAS)
    _add_feed_forward(layer, reader, at, _experts(config, index), (_inner(config, index), hidden))
    return layer


def _add_norms(layer: Layer, reader: Reader, at: str, hidden: int, is_gemma: bool) -> None:
    """Gemma has one on either side of attention, and of what follows."""
    layer.input_norm = reader.norm(f"{at}.input_layernorm", hidden)
    after_attention = reader.norm(f"{at}.post_attention_layernorm", hidden)
    if not is_gemma:
        layer.output_norm = after_attention
        return
    layer.attention_norm = after_attention
    layer.output_norm = reader.norm(f"{at}.pre_feedforward_layernorm", hidden)
    layer.inner_norm = reader.norm(f"{at}.post_feedforward_layernorm", hidden)


def _add_feed_forward(layer: Layer, reader: Reader, at: str, experts: int, shape: tuple[int, int]) -> None:
    """`shape` [inner, hidden] of gate and up."""

    def matrix(projection: str, shape: tuple[int, int]) -> Weight:
        if experts:
            return reader.experts(at, projection, experts, shape)
        return reader.matrix(f"{at}.mlp.{projection}", shape)

    if experts:
        layer.router = reader.router(at, (experts, shape[1]))
    layer.gate, layer.up = matrix("gate_proj", shape), matrix("up_proj", shape)
    layer.down = matrix("down_proj", (shape[1], shape[0]))


def _window(config: Any, index: int) -> int:
    """Positions that a query of this layer sees, 0 for all."""
    kinds = getattr(config, "layer_types", None)
    slides = kinds[index] == "sliding_attention" if kinds else config.model_type in _SLIDING_THROUGHOUT
    return (getattr(config, "sliding_window", None) or 0) if slides else 0


def _way(config: Any, index: int) -> int:
    """Which of _rotations turns this layer, -1 for none."""
    turned = getattr(config, "no_rope_layers", None)  # which says 1 where there is one
    if turned and not turned[index]:
        return -1
    ways = _ways(config)
    return ways.index(config.layer_types[index]) if len(ways) > 1 else 0
