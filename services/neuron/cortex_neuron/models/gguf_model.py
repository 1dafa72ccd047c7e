"""A GGUF file's model in transformers' words: its config, its weights by their transformers names.

Owns: the tables of names, and what llama.cpp's converter did to some weights, undone. Does not own: the file
(models.gguf_file) or the tokenizer (models.text_files). Called by: models.loader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cortex_neuron import model_types
from cortex_neuron.models.gguf_file import GgufFile, TensorEntry
from cortex_neuron.native.matrices import Stored, floats, is_packable, of_floats
from cortex_neuron.protocol.failures import CannotLoad

MODEL_TYPES = model_types.GGUF_ARCHITECTURES

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",  # those of all experts, one after the other
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_GEMMA_LAYER = _LAYER | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_KEYS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_MIXTRAL_KEYS = _KEYS | {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
_QWEN_MOE_KEYS = _KEYS | {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_GEMMA_KEYS = _KEYS | {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_FACTORS = "rope_freqs.weight"
# By model_type; others have _KEYS.
_KEYS_OF = {
    "mixtral": _MIXTRAL_KEYS,
    "qwen3_moe": _QWEN_MOE_KEYS,
    "gemma2": _GEMMA_KEYS,
    "gemma3_text": _GEMMA_KEYS,
}
# Layers of the 27B models: the only sizes whose attention is scaled by hidden_size / heads and not by head_dim.
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}


def read_config_values(file: GgufFile) -> dict[str, Any]:
    """As a config.json would have it. Raises CannotLoad for an architecture or a rope scaling outside of the tables."""
    arch = _known(file)
    shapes = {entry.name: entry.shape for entry in file.tensors}
    if "token_embd.weight" not in shapes:
        raise CannotLoad(f"{file.path}: there is no tensor token_embd.weight")
    values: dict[str, Any] = {
        "model_type": _model_type(file, arch),
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
        "rope_theta": file.metadata.get(f"{arch}.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, arch),
    }
    for key, name in _KEYS_OF.get(values["model_type"], _KEYS).items():
        if (value := file.metadata.get(f"{arch}.{key}")) is not None:
            values[name] = value
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    if values["model_type"] == "qwen3_moe":
        values["norm_topk_prob"] = True  # the file does not say so; llama.cpp computes it as of every such model
    if arch in _GEMMA_27B_LAYERS:
        by_heads = values["num_hidden_layers"] == _GEMMA_27B_LAYERS[arch]
        scale = values["hidden_size"] // values["num_attention_heads"] if by_heads else values["head_dim"]
        values["query_pre_attn_scalar"] = scale
    if "blk.0.attn_q.bias" in shapes:
        values["attention_bias"] = True
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        values[name] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    return values


def _known(file: GgufFile) -> str:
    arch = file.architecture()
    if arch not in MODEL_TYPES:
        raise CannotLoad(f"{file.path}: architecture {arch!r} is not supported, expected one of {sorted(MODEL_TYPES)}")
    return arch


def _model_type(file: GgufFile, arch: str) -> str:
    """Of a file whose architecture is known; llama.cpp has Mixtral as a llama with experts."""
    return "mixtral" if arch == "llama" and file.metadata.get("llama.expert_count") else MODEL_TYPES[arch]


def _rope_scaling(file: GgufFile, arch: str) -> dict[str, Any] | None:
    kind = file.metadata.get(f"{arch}.rope.scaling.type", "none")
    factor = file.metadata.get(f"{arch}.rope.scaling.factor")
    if kind == "none" or factor is None:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = file.metadata.get(f"{arch}.rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise CannotLoad(f"{file.path}: rope scaling {kind!r} is not supported, expected none, linear or yarn")


def read_weights(file: GgufFile, config: Any, threads: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """The state dict in float32, and llama 3's rope factors [head_dim / 2] where the file has them."""
    arch = _known(file)
    undo = _undo(arch, config)
    weights: dict[str, Tensor] = {}
    factors: Tensor | None = None
    for name, tensor in file.float_tensors(threads):
        if name == _FACTORS:
            factors = tensor
            continue
        weights[_weight_name(file, arch, name)] = undo(name, tensor)
    _join_experts(weights)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights, factors


def _join_experts(weights: dict[str, Tensor]) -> None:
    """Transformers' modules have gate and up of all experts as one parameter, and all their downs."""
    for name in [name for name in weights if name.endswith(".experts.gate_proj.weight")]:
        experts = name.removesuffix(".gate_proj.weight")
        both = [weights.pop(f"{experts}.{part}.weight") for part in ("gate_proj", "up_proj")]
        weights[f"{experts}.gate_up_proj"] = torch.cat(both, dim=1)
        weights[f"{experts}.down_proj"] = weights.pop(f"{experts}.down_proj.weight")


class GgufFiles:
    """The file's tensors one by one, by transformers' names, quantised as they are: native_files.Files."""

    def __init__(self, file: GgufFile, config: Any) -> None:
        arch = _known(file)
        self.path = file.path
        self._file = file
        self._undo = _undo(arch, config)
        self._entries = {entry.name: entry for entry in file.tensors}
        self.factors = self._file.float_tensor(found) if (found := self._entries.pop(_FACTORS, None)) else None
        self._names = {_weight_name(file, arch, name): name for name in self._entries}

    def has(self, name: str) -> bool:
        return name in self._names

    def matrix(self, name: str) -> Stored:
        entry = self._entry(name)
        if not is_packable(entry.kind):
            return of_floats(self.floats(name))
        rows, columns = entry.shape
        # What the converter did to a matrix, it did to whole rows.
        order = self._undo(entry.name, torch.arange(rows, dtype=torch.int32)[:, None]).flatten().numpy()
        return Stored(entry.kind, (rows, columns), self._file.rows(entry), np.ascontiguousarray(order))

    def floats(self, name: str) -> NDArray[np.float32]:
        entry = self._entry(name)
        values: NDArray[np.float32] = self._undo(entry.name, self._file.float_tensor(entry)).numpy()
        return values

    def router(self, layer: str) -> str:
        return f"{layer}.mlp.gate.weight"

    def experts(self, layer: str, projection: str, count: int) -> Iterator[tuple[str, Stored]]:
        name = f"{layer}.mlp.experts.{projection}.weight"
        if not self.has(name):
            raise CannotLoad(f"{self.path}: the files lack tensor {name}")
        entry = self._entry(name)
        if len(entry.shape) != 3 or entry.shape[0] != count:
            raise CannotLoad(f"{self.path}: tensor {name} is {list(entry.shape)}, expected those of {count} experts")
        _, rows, columns = entry.shape
        data = self._file.rows(entry)
        for first in range(0, count * rows, rows):
            stored = Stored(entry.kind, (rows, columns), data[first : first + rows])
            yield name, stored if is_packable(entry.kind) else of_floats(floats(stored))

    def _entry(self, name: str) -> TensorEntry:
        return self._entries[self._names[name]]


def _weight_name(file: GgufFile, arch: str, name: str) -> str:
    table = _GEMMA_LAYER if arch.startswith("gemma") else _LAYER
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and layer[2] in table:
        return f"model.layers.{layer[1]}.{table[layer[2]]}.{layer[3]}"
    base, _, kind = name.rpartition(".")
    if base in _TOP:
        return f"{_TOP[base]}.{kind}"
    raise CannotLoad(f"{file.path}: tensor {name!r} has no place in architecture {arch!r}")


def _undo(arch: str, config: Any) -> Callable[[str, Tensor], Tensor]:
    """What llama.cpp's converter did to a tensor, undone."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}

    def llama(name: str, tensor: Tensor) -> Tensor:
        # Its rope rotates neighbours, transformers' rotates halves: the rows of each head are interleaved in the file.
        count = next((n for part, n in heads.items() if f".{part}." in name), None)
        if count is None:
            return tensor
        return tensor.view(count, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)

    def gemma(name: str, tensor: Tensor) -> Tensor:
        # Its norm multiplies by the weight, transformers' by one more than the weight.
        return tensor - 1 if name.endswith("norm.weight") else tensor

    return {"llama": llama}.get(arch, gemma if arch.startswith("gemma") else lambda _, tensor: tensor)
