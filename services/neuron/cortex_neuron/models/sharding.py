"""What a rank holds of each parameter of a model. Pure: no file is opened, nothing is computed.

Owns: which dimension is cut, and which ranges a rank has. The styles are transformers' own (`base_model_tp_plan`).
Does not own: the arithmetic of a part, and what must divide (cortex_neuron.shards), reading (models.weights) or the
layers (layers.parallel). Called by: models.sharded_model, models.weights.

Projections that are stored as one, Phi-3's qkv_proj and every gate_up_proj, are cut in each of their regions: cut
uniformly, a rank would have the gates and another the ups.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cortex_neuron import shards
from cortex_neuron.protocol.failures import CannotLoad

Range = tuple[int, int]  # first, and the one after the last


class Style(Enum):
    """How a module's work is divided."""

    OUTPUTS = "each rank computes some of the outputs"
    INPUTS = "each rank has some of the inputs; the results are summed"
    SUMMED = "the module's parameters are cut inside; its results are summed"
    WHOLE = "each rank has all of it"


# transformers' words. Those that gather or split do so because it cuts fused projections uniformly, and we do not.
_STYLES = {
    "colwise": Style.OUTPUTS,
    "packed_colwise": Style.OUTPUTS,
    "colwise_gather_output": Style.OUTPUTS,
    "rowwise": Style.INPUTS,
    "rowwise_split_input": Style.INPUTS,
    "moe_tp_experts": Style.SUMMED,
    "replicated_with_grad_allreduce": Style.WHOLE,
    "embedding_rowwise": Style.OUTPUTS,  # transformers 5.17 puts it into the plans of tied models
}
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"  # divided by vocabulary, whether a plan has them or not
_DIVIDED = (
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "vocab_size",
)


@dataclass(frozen=True, slots=True)
class Cut:
    """Ranges of one dimension, counted from the end, joined in this order."""

    dim: int
    ranges: tuple[Range, ...]

    def shape(self, whole: Sequence[int]) -> list[int]:
        """Of what is left of a tensor."""
        left = list(whole)
        left[self.dim] = sum(end - first for first, end in self.ranges)
        return left


class Sharding:
    """One rank's share of a model with this transformers config. Raises CannotLoad where it cannot be divided."""

    def __init__(self, config: Any, rank: int, world_size: int) -> None:
        self.config, self.rank, self.world_size = config, rank, world_size
        if words := shards.fault(shards.figures_of(config.to_dict()), world_size):
            raise CannotLoad(words)
        plan = config.base_model_tp_plan
        if not plan and world_size > 1:
            raise CannotLoad(f"model_type {config.model_type!r} has no plan for more than one rank")
        self._styles = {f"model.{name}": _known(name, style) for name, style in (plan or {}).items()}
        self._styles |= {EMBEDDING: Style.OUTPUTS, HEAD: Style.OUTPUTS}

    def style(self, module: str) -> Style:
        """Of a module, or of a fused parameter, by its name in the model."""
        wild = ".".join("*" if step.isdigit() else step for step in module.split("."))
        return self._styles.get(wild, Style.WHOLE)

    def cut(self, parameter: str, shape: Sequence[int]) -> Cut | None:
        """What this rank has of a parameter of this whole shape; None for all of it."""
        module, kind = _split(parameter)
        style = self.style(module)
        if style is Style.INPUTS and kind != "bias":  # whose bias is added once, to the sum
            return Cut(-1, (self._part(shape[-1]),))
        if style is Style.OUTPUTS:
            dim = -1 if kind == "bias" else -2
            return Cut(dim, self._output_ranges(module.rpartition(".")[2], shape[dim]))
        return None

    def local_config(self) -> Any:
        """The config of the model that is this rank's share: the same one with fewer heads, rows and tokens."""
        config = copy.deepcopy(self.config)
        config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        config.pad_token_id = None  # may lie in another rank's tokens; only training asks for it
        for name in _DIVIDED:
            count = getattr(config, name, None)
            if count is not None:
                setattr(config, name, max(1, count // self.world_size))
        return config

    def first_token(self) -> int:
        """Of this rank's part of the vocabulary."""
        return self._part(self.config.vocab_size)[0]

    def _part(self, count: int) -> Range:
        return shards.part(count, self.world_size, self.rank)

    def _output_ranges(self, leaf: str, rows: int) -> tuple[Range, ...]:
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        if leaf in ("k_proj", "v_proj"):
            return (self._kv_range(0, rows // kv_heads),)
        if leaf == "qkv_proj":
            size = rows // (heads + 2 * kv_heads)
            keys = self._kv_range(heads * size, size)
            return (self._part(heads * size), keys, _moved(keys, kv_heads * size))
        if leaf == "gate_up_proj":
            gate = self._part(rows // 2)
            return (gate, _moved(gate, rows // 2))
        return (self._part(rows),)

    def _kv_range(self, start: int, head_dim: int) -> Range:
        first, end = shards.kv_part(self.config.num_key_value_heads, self.world_size, self.rank)
        return start + first * head_dim, start + end * head_dim


def _known(name: str, style: str) -> Style:
    if style not in _STYLES:
        raise CannotLoad(f"{name} is divided in style {style!r}, which is not supported; expected one of {[*_STYLES]}")
    return _STYLES[style]


def _split(parameter: str) -> tuple[str, str]:
    """`….q_proj.weight` is a module and a kind; fused experts are parameters without one."""
    module, _, kind = parameter.rpartition(".")
    return (module, kind) if kind in ("weight", "bias") else (parameter, "weight")


def _moved(part: Range, by: int) -> Range:
    return part[0] + by, part[1] + by
