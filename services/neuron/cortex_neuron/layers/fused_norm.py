"""RMS norms as one kernel of torch, where transformers' classes make eight of them.

Owns: which norms are of the plain kind. Called by: models.module_loader, once, for models computed on a GPU.

A step of one sequence has some sixty norms, and each kernel takes microseconds whatever it does, in a graph as well.
Sums are float32 as in transformers' own, but rounded once, after the weight, where that rounds before it, too.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own spelling)
from torch import Tensor, nn

_ROWS, _TOLERANCE = 3, 1e-5


def fuse_norms(module: nn.Module) -> int:
    """Have the module's plain RMS norms computed by one kernel each; how many they are."""
    plain: dict[type, bool] = {}
    num_fused = 0
    for norm in module.modules():
        if not type(norm).__name__.endswith("RMSNorm") or _epsilon(norm) is None:
            continue
        if plain.setdefault(type(norm), _is_plain(norm)):
            norm.forward = MethodType(_forward, norm)
            num_fused += 1
    return num_fused


def _epsilon(norm: Any) -> float | None:
    found: float | None = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found if isinstance(getattr(norm, "weight", None), Tensor) else None


def _forward(norm: Any, hidden_states: Tensor) -> Tensor:
    return F.rms_norm(hidden_states, (hidden_states.shape[-1],), norm.weight, _epsilon(norm))


@torch.inference_mode()
def _is_plain(norm: nn.Module) -> bool:
    """Whether the class computes just that: Gemma's, for one, adds 1 to its weights."""
    small: Any = copy.deepcopy(norm).to("cpu", torch.float32)
    small.weight.copy_(torch.linspace(0.5, 2.0, small.weight.numel()))
    given = torch.randn(_ROWS, small.weight.numel(), generator=torch.Generator().manual_seed(1)) * 3
    return bool((small(given) - _forward(small, given)).abs().max() < _TOLERANCE)
