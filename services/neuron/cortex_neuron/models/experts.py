"""How a mixture's experts are computed, and whether the host has to know which were chosen.

Owns: the choice between transformers' ways. Does not own: their arithmetic, which rows a rank has (models.sharding), or
whether graphs are recorded (engine.runner, which asks). Called by: models.module_loader.

transformers multiplies all experts' rows in one call of torch's grouped_mm, or goes through the experts one by one, for
which it reads on the host which of them have rows. So does torch in grouped_mm, but for bfloat16 on Hopper and on
Blackwell's servers, where that is one kernel. To copy the chosen experts' weights together (batched_mm) needs no host
either, and for a step of 64 rows moves more than the whole model: it is not used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MIXTURE = ("num_experts", "num_local_experts")  # in a config
_GROUPED, _ONE_BY_ONE = "grouped_mm", "eager"
_ROW_BYTES = 16  # grouped_mm takes rows of a multiple of so many
_KERNEL_MAJORS = (9, 10)  # of compute capabilities


def choose(module: Any) -> None:
    """Have experts computed by one call, where their rows are such as that takes."""
    weights = _weights(module)
    if weights:
        fits = all(each.shape[-1] * each.itemsize % _ROW_BYTES == 0 for each in weights)
        module.set_experts_implementation(_GROUPED if fits else _ONE_BY_ONE)


def are_chosen_on_host(module: Any, device: torch.device) -> bool:
    """Whether a step waits for the device to say which experts its rows go to. `device` is a GPU."""
    if not any(getattr(module.config, name, None) for name in _MIXTURE):
        return False
    weights = _weights(module)  # none, where a quantised checkpoint has layers for them
    return not (
        weights
        and module.config._experts_implementation == _GROUPED
        and all(each.dtype is torch.bfloat16 for each in weights)
        and torch.cuda.get_device_capability(device)[0] in _KERNEL_MAJORS
    )


def _weights(module: Any) -> list[Tensor]:
    """Those of experts: [experts, out, in] each."""
    return [each for name, each in module.named_parameters() if each.dim() == 3 and ".experts." in f".{name}."]
