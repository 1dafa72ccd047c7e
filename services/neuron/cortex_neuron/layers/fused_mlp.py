"""A layer's gated feed-forward part: one product, one kernel, one product.

Owns: the forward that takes the place of a class's own, and which modules compute just that: those whose activation is
silu. Does not own: the kernel (layers.triton_fused) or the joined weight (layers.joined). Called by: layers.fusing, and
then by the decoder layer of a transformers model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cortex_neuron.layers.fused_ops import Ops, PlainOps
from cortex_neuron.layers.joined import Products, Together, products
from cortex_neuron.layers.trial_module import HIDDEN, ROWS, Numbers, is_close, outcome, with_children

_APART, _TOGETHER, _DOWN = ("gate_proj", "up_proj"), "gate_up_proj", "down_proj"
_ACTIVATIONS = {"act_fn", "activation_fn"}
_INNER = 24


class FusedMlp:
    """In the place of a module's `forward`."""

    def __init__(self, module: Any, ops: Ops, project: Products) -> None:
        self._module, self._ops, self._project = module, ops, project

    def __call__(self, hidden_states: Tensor) -> Tensor:
        gate, up = self._project(hidden_states)
        found: Tensor = self._module.down_proj(self._ops.gate(gate, up))
        return found


def fuse(module: Any, ops: Ops, device: torch.device) -> None:
    """Have the module computed so."""
    module.forward = FusedMlp(module, ops, _products(module, device))


def _products(module: Any, device: torch.device | None = None) -> Products:
    if hasattr(module, _TOGETHER):
        layer = getattr(module, _TOGETHER)
        return Together(layer, [layer.out_features // 2] * 2)
    return products([getattr(module, name) for name in _APART], device)


# ---- the trial


def is_plain(module: Any) -> bool:
    """Whether this module computes what FusedMlp does."""
    names = {*module._modules} - _ACTIVATIONS
    if names not in ({*_APART, _DOWN}, {_TOGETHER, _DOWN}) or "forward" in vars(module):
        return False
    return bool(outcome(_tried, module))


def _tried(module: Any) -> bool:
    numbers = Numbers()
    sizes = {**dict.fromkeys(_APART, _INNER), _TOGETHER: 2 * _INNER}
    children = {name: numbers.linear(HIDDEN, size) for name, size in sizes.items() if name in module._modules}
    small = with_children(module, **children, down_proj=numbers.linear(_INNER, HIDDEN))
    given = numbers.normal(1, ROWS, HIDDEN)
    return is_close(FusedMlp(small, PlainOps(), _products(small))(given), small(given))
