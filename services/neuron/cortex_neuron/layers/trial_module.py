"""A module of a model made small, with random numbers: so a trial asks a class what it computes.

Owns: the copy. Does not own: the questions. Called by: layers.fused_attention, layers.fused_mlp, layers.fused_residual.

What a class's forward computes is asked of each module and not only of each class: SmolLM 3 turns in some layers and
not in others, and windows differ from layer to layer. So a trial has to be cheap: a model's hidden size and its inner
one are made small, and no number of the model's own is read.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

HIDDEN, ROWS = 8, 3
_POOL = 1 << 20
_TOLERANCE = 1e-4
_Found = TypeVar("_Found")


@functools.cache
def _pool() -> Tensor:
    """Drawn once: to draw so many for each layer would take seconds of a load."""
    return torch.randn(_POOL, generator=torch.Generator().manual_seed(1))


class Numbers:
    """Random ones that are the same each time, and not those that anybody else draws."""

    def __init__(self) -> None:
        self._at = 0

    def normal(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        assert count <= _POOL, "of one head's size, of every head"
        self._at = self._at if self._at + count <= _POOL else 0
        self._at += count
        return _pool()[self._at - count : self._at].view(shape)

    def linear(self, num_in: int, num_out: int) -> nn.Linear:
        """With a bias, and outputs around 1."""
        layer = nn.Linear(num_in, num_out, device="meta")
        layer.weight = nn.Parameter(self.normal(num_out, num_in) * num_in**-0.5, requires_grad=False)
        layer.bias = nn.Parameter(self.normal(num_out), requires_grad=False)
        return layer

    def norm(self, like: nn.Module, width: int) -> nn.Module:
        """A norm of the same kind, of so many numbers."""
        small: nn.Module = with_children(like)
        small._parameters = {"weight": nn.Parameter(self.normal(width).abs() + 0.5, requires_grad=False)}
        return small


@torch.inference_mode()
def outcome(trial: Callable[[Any], _Found], module: Any) -> _Found | None:
    """What a trial finds of this module; None where it fails, for a class that is used otherwise is not of the plain
    kind, whatever it says."""
    try:
        return trial(module)
    except Exception:  # noqa: BLE001  classes are others', and so is what they raise
        return None


def with_children(module: nn.Module, **children: nn.Module) -> Any:
    """The module with these instead of its own; what it has besides, such as its config, is the same."""
    small = copy.copy(module)
    small._parameters, small._buffers, small._modules = {}, {}, {**module._modules, **children}
    small.__dict__.pop("forward", None)
    small.training = False
    return small


def is_close(found: Tensor, expected: Tensor) -> bool:
    """Of numbers around 1."""
    return found.shape == expected.shape and bool((found - expected).abs().max() < _TOLERANCE)
