"""Products of the same numbers: one after the other, or as one with a joined weight.

Owns: the joining, and when it can be. Called by: layers.fused_attention and layers.fused_mlp.

A step of one sequence reads each weight once, and three small products read slower than one that is as large as all.
The layers keep their weights as views into the joined one: nothing is held twice, what looks for them finds them, and
the memory of all comes and goes with that of any (models.host_copy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own spelling)
from torch import Tensor, nn

# [..., in] -> each product's [..., out]; they may be views of one tensor.
Products = Callable[[Tensor], Sequence[Tensor]]


class Apart:
    """By the layers themselves, whatever they are."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        return [layer(inputs) for layer in self._layers]


class Together:
    """By a layer that the checkpoint has for all of them (Phi 3)."""

    def __init__(self, layer: nn.Module, sizes: Sequence[int]) -> None:
        self._layer, self._sizes = layer, list(sizes)

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self._layer(inputs).split(self._sizes, -1)
        return parts


class Joined:
    """By one weight, which is made on the device, wherever the layers' own are. If these are there already, they are
    given back at once: so no more than these layers' are ever there twice."""

    @torch.no_grad()
    def __init__(self, layers: Sequence[nn.Linear], device: torch.device) -> None:
        were_there = layers[0].weight.is_cuda
        self._sizes = [layer.out_features for layer in layers]
        self._weight = _join([layer.weight for layer in layers], device)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self._bias = _join(biases, device) if biases else None
        if were_there:
            torch.cuda.empty_cache()  # torch would keep them, and they are too small for the next ones

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = F.linear(inputs, self._weight, self._bias).split(self._sizes, -1)
        return parts


def products(layers: Sequence[nn.Module], device: torch.device | None) -> Products:
    """Of these layers, joined on the device if they are plain; apart where no device is said."""
    plain = [layer for layer in layers if isinstance(layer, nn.Linear) and _is_plain(layer)]
    if device is None or len(plain) < len(layers):
        return Apart(layers)
    kinds = {(layer.in_features, layer.weight.dtype, layer.bias is None) for layer in plain}
    return Joined(plain, device) if len(kinds) == 1 else Apart(layers)


def _is_plain(layer: Any) -> bool:
    """Just nn.Linear, with nothing put around it, and with weights that are numbers and not torchao's, say."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return not hooked and all(type(each) is nn.Parameter for each in layer.parameters())


def _join(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Side by side in their first dimension; each part becomes a view of its place."""
    counts = [part.shape[0] for part in parts]
    whole = torch.empty(sum(counts), *parts[0].shape[1:], dtype=parts[0].dtype, device=device)
    for part, place in zip(parts, whole.split(counts), strict=True):
        place.copy_(part)
        part.data = place
    return whole
