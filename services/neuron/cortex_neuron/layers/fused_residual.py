"""A decoder layer's two sums, each with the norm that comes after it as one kernel.

Owns: the forward that takes the place of a class's own, and which layers are so: a norm, attention, a sum, a norm, a
feed-forward part, a sum. Does not own: the kernel (layers.triton_fused). Called by: layers.fusing, and then by a
transformers model, a layer at a time.

The norm after a layer's second sum is the next layer's first, or the model's last: what it will be asked for is handed
to it (layers.fused_norm).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cortex_neuron.layers import fused_norm
from cortex_neuron.layers.fused_norm import FusedNorm
from cortex_neuron.layers.fused_ops import Ops, PlainOps
from cortex_neuron.layers.trial_module import HIDDEN, ROWS, Numbers, is_close, outcome, with_children

_NORMS = ("input_layernorm", "post_attention_layernorm")


class FusedLayer:
    """In the place of a layer's `forward`. `second` is its second norm, `following` the one after it."""

    def __init__(self, layer: Any, ops: Ops, second: FusedNorm, following: FusedNorm) -> None:
        self._layer, self._ops = layer, ops
        self._second, self._following = second, following

    def __call__(self, hidden_states: Tensor, **more: Any) -> Tensor:
        layer, ops, second, following = self._layer, self._ops, self._second, self._following
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **more)
        total, normed = ops.add_norm(hidden_states, attended, second.weight, second.epsilon)
        total, ahead = ops.add_norm(total, layer.mlp(normed), following.weight, following.epsilon)
        following.hand(total, ahead)
        return total


def fuse(decoder: Any, ops: Ops) -> int:
    """Have the layers of what has `layers` and a last `norm` computed so; how many they are."""
    layers = [*decoder.layers]
    after = [*(getattr(layer, _NORMS[0], None) for layer in layers[1:]), decoder.norm]
    num_fused = 0
    for layer, norm in zip(layers, after, strict=True):
        second, following = (fused_norm.fused(each) for each in (getattr(layer, _NORMS[1], None), norm))
        if second is not None and following is not None and _is_plain(layer):
            layer.forward = FusedLayer(layer, ops, second, following)
            num_fused += 1
    return num_fused


# ---- the trial


class _Bent(nn.Module):
    """In the place of attention or of what comes after it: something that is not linear."""

    def __init__(self, layer: nn.Linear, *, is_attention: bool) -> None:
        super().__init__()
        self._layer, self._is_attention = layer, is_attention

    def forward(self, hidden_states: Tensor, **_: Any) -> Any:
        bent = self._layer(hidden_states).tanh()
        return (bent, None) if self._is_attention else bent


def _is_plain(layer: Any) -> bool:
    """Whether this layer computes what FusedLayer does."""
    if "forward" in vars(layer) or not {*_NORMS, "self_attn", "mlp"} <= {*layer._modules}:
        return False
    return bool(outcome(_tried, layer))


def _tried(layer: Any) -> bool:
    numbers = Numbers()
    small = with_children(
        layer,
        self_attn=_Bent(numbers.linear(HIDDEN, HIDDEN), is_attention=True),
        mlp=_Bent(numbers.linear(HIDDEN, HIDDEN), is_attention=False),
        **{name: numbers.norm(getattr(layer, name), HIDDEN) for name in _NORMS},
    )
    given = numbers.normal(1, ROWS, HIDDEN)
    after = FusedNorm(numbers.norm(layer.input_layernorm, HIDDEN))
    fused = FusedLayer(small, PlainOps(), FusedNorm(small.post_attention_layernorm), after)
    return is_close(fused(given), small(given))
