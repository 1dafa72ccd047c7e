"""What a layer's attention module does before and after attention proper: one product, one kernel, one product.

Owns: the forward that takes the place of a class's own, and which modules compute just that. Does not own: attention
(layers.attention), the kernel (layers.triton_fused) or the joined weight (layers.joined). Called by: layers.fusing, and
then by the decoder layer of a transformers model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cortex_neuron.layers import fused_norm
from cortex_neuron.layers.attention import Rule
from cortex_neuron.layers.fused_ops import Angles, HeadNorms, Ops, PlainOps
from cortex_neuron.layers.joined import Products, Together, products
from cortex_neuron.layers.stored import Place
from cortex_neuron.layers.trial_module import HIDDEN, ROWS, Numbers, is_close, outcome, with_children

_APART, _TOGETHER = ("q_proj", "k_proj", "v_proj"), "qkv_proj"
_NORMS = ("q_norm", "k_norm")
_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Form:
    """What an attention module does, besides its products. `turned`: numbers of a head that are turned, 0 for none."""

    heads: int
    kv_heads: int
    head_dim: int
    turned: int
    is_normed: bool
    rule: Rule

    @property
    def sizes(self) -> list[int]:
        """Of q, k and v."""
        return [each * self.head_dim for each in (self.heads, self.kv_heads, self.kv_heads)]


class FusedAttention:
    """In the place of a module's `forward`."""

    def __init__(self, module: Any, form: Form, ops: Ops, project: Products) -> None:
        self._module, self._form, self._ops, self._project = module, form, ops, project

    def __call__(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None, **more: Any
    ) -> tuple[Tensor, Any]:
        """hidden_states [1, rows, hidden]; cosines and sines [1, rows, turned]"""
        paged = more.get("paged")
        if paged is None:  # whoever runs the model without our cache
            own = type(self._module).forward
            found: tuple[Tensor, Any] = own(self._module, hidden_states, position_embeddings, **more)
            return found
        form, layer = self._form, self._module.layer_idx
        # views: [rows, heads, head_dim], and kv_heads
        q, k, v = (each.unflatten(-1, (-1, form.head_dim)) for each in self._project(hidden_states[0]))
        angles = None
        if form.turned:
            assert position_embeddings is not None, "the model makes them for all layers"
            angles = Angles(position_embeddings[0][0], position_embeddings[1][0])
        q, k = self._ops.turn(q, k, v, angles, self._head_norms(), paged.place(layer))
        out = paged.attend(q, k, v, layer, form.rule)
        return self._module.o_proj(out.reshape(1, len(out), -1)), None

    def _head_norms(self) -> HeadNorms | None:
        if not self._form.is_normed:
            return None
        query, key = (getattr(self._module, name) for name in _NORMS)
        epsilon = fused_norm.epsilon(query)
        assert epsilon is not None, "norms are of the plain kind"
        return HeadNorms(query.weight, key.weight, epsilon)


def fuse(module: Any, form: Form, ops: Ops, device: torch.device) -> None:
    """Have the module computed so."""
    module.forward = FusedAttention(module, form, ops, _products(module, form.sizes, device))


def _products(module: Any, sizes: Sequence[int], device: torch.device | None = None) -> Products:
    if hasattr(module, _TOGETHER):
        return Together(getattr(module, _TOGETHER), sizes)
    return products([getattr(module, name) for name in _APART], device)


# ---- the trial


class Noted:
    """In the place of a step: notes what a layer would have attended with, and answers noise."""

    def __init__(self, answer: Tensor, kv_heads: int) -> None:
        self._answer = answer  # [rows, heads, head_dim]
        caches = torch.zeros(2, _SLOTS, kv_heads, answer.shape[-1])
        self._place = Place(caches[0], caches[1], torch.tensor([5, 0, 2]))
        self.tensors = [caches]
        self.rule: Rule | None = None

    def place(self, layer: int) -> Place:
        return self._place

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, rule: Rule) -> Tensor:
        self.tensors += [q, k, v]
        self.rule = rule
        return self._answer


def form_of(module: Any) -> Form | None:
    """What this module does, if it is what FusedAttention does."""
    names = {*module._modules} - {*_NORMS}
    if names not in ({*_APART, "o_proj"}, {_TOGETHER, "o_proj"}) or "forward" in vars(module):
        return None
    if any(fused_norm.fused(getattr(module, name)) is None for name in {*_NORMS} & {*module._modules}):
        return None
    return outcome(_tried, module)


def _tried(module: Any) -> Form | None:
    config, width = module.config, int(module.head_dim)
    heads, kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
    rope = getattr(config, "rope_parameters", None) or {}
    turned = int(width * (rope.get("partial_rotary_factor") or 1.0))
    numbers = Numbers()
    small = _small(module, heads, kv_heads, width, numbers)
    given, angles = numbers.normal(1, ROWS, HIDDEN), (numbers.normal(1, ROWS, turned), numbers.normal(1, ROWS, turned))
    answer = numbers.normal(ROWS, heads, width)
    expected = Noted(answer, kv_heads)
    out, _ = small(hidden_states=given, position_embeddings=angles, attention_mask=None, paged=expected)
    if expected.rule is None:
        return None
    is_normed = _NORMS[0] in module._modules
    for each in (turned, 0):
        form, found = Form(heads, kv_heads, width, each, is_normed, expected.rule), Noted(answer, kv_heads)
        forward = FusedAttention(small, form, PlainOps(), _products(small, form.sizes))
        pairs = zip([forward(given, angles, paged=found)[0], *found.tensors], [out, *expected.tensors], strict=True)
        if all(is_close(one, other) for one, other in pairs):
            return form
    return None


def _small(module: nn.Module, heads: int, kv_heads: int, width: int, numbers: Numbers) -> Any:
    rows = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, _TOGETHER: heads + 2 * kv_heads}
    children: dict[str, nn.Module] = {
        name: numbers.linear(HIDDEN, num * width) for name, num in rows.items() if name in module._modules
    }
    children |= {name: numbers.norm(getattr(module, name), width) for name in _NORMS if name in module._modules}
    return with_children(module, **children, o_proj=numbers.linear(heads * width, HIDDEN))
