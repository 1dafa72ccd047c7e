"""RMS norms as one kernel of torch, where transformers' classes make eight of them.

Owns: which norms are of the plain kind, and the norms that are computed already when their turn comes. Called by:
layers.fusing, once, for models computed on a GPU, and layers.fused_residual, in every step.

A step of one sequence has some sixty norms, and each kernel takes microseconds whatever it does, in a graph as well.
Sums are float32 as in transformers' own, but rounded once, after the weight, where that rounds before it, too.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own spelling)
from torch import Tensor, nn

_ROWS, _TOLERANCE = 3, 1e-5


class FusedNorm:
    """In the place of a norm's `forward`."""

    def __init__(self, norm: Any) -> None:
        self._norm, self.epsilon = norm, epsilon(norm) or 0.0
        self._ahead: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self._norm.weight
        return weight

    def hand(self, total: Tensor, normed: Tensor) -> None:
        """What this norm makes of `total`, from a kernel that made both: taken if that very tensor comes next."""
        self._ahead = (total, normed)

    def __call__(self, hidden_states: Tensor) -> Tensor:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is hidden_states:
            return ahead[1]
        return F.rms_norm(hidden_states, hidden_states.shape[-1:], self.weight, self.epsilon)


def fuse_norms(module: nn.Module) -> int:
    """Have the module's plain RMS norms computed by one kernel each; how many they are."""
    plain: dict[type, bool] = {}
    num_fused = 0
    for norm in module.modules():
        if not type(norm).__name__.endswith("RMSNorm") or epsilon(norm) is None:
            continue
        if plain.setdefault(type(norm), _is_plain(norm)):
            norm.forward = FusedNorm(norm)
            num_fused += 1
    return num_fused


def fused(norm: Any) -> FusedNorm | None:
    """What computes this norm, if it is fused."""
    found = vars(norm).get("forward") if isinstance(norm, nn.Module) else None
    return found if isinstance(found, FusedNorm) else None


def epsilon(norm: Any) -> float | None:
    """Of an RMS norm that has weights."""
    found: float | None = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found if isinstance(getattr(norm, "weight", None), Tensor) else None


@torch.inference_mode()
def _is_plain(norm: nn.Module) -> bool:
    """Whether the class computes just that: Gemma's, for one, adds 1 to its weights."""
    small: Any = copy.deepcopy(norm).to("cpu", torch.float32)
    small.weight.copy_(torch.linspace(0.5, 2.0, small.weight.numel()))
    given = torch.randn(_ROWS, small.weight.numel(), generator=torch.Generator().manual_seed(1)) * 3
    return bool((small(given) - FusedNorm(small)(given)).abs().max() < _TOLERANCE)
