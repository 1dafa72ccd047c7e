"""The catalogue's `quant` on a GPU: matrices rounded to 8 or 4 bits while they are put there, by torchao.

Owns: which words there are, what each needs, and which matrices are rounded: those of layers, not the embedding or the
head. Does not own: `quant` on a CPU (native.matrices), or files that are quantised already (models.prequantised).
Called by: models.loader (asks), models.module_loader (rounds).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from cortex_neuron.protocol.failures import CannotLoad

METHODS = ("int8", "int4", "fp8")
# Weights that share a scale in int4; a row must have a multiple of so many.
_GROUP = 128
_INT4_CAPABILITY = (8, 0)


def check(quant: str, device: torch.device) -> None:
    """Raises CannotLoad where that cannot be done on this GPU, or what does it is not installed."""
    if quant not in METHODS:
        raise CannotLoad(
            f"quant {quant!r} is not supported; expected null, the weights as the file has them, or {METHODS}"
        )
    if importlib.util.find_spec("torchao") is None:
        raise CannotLoad(
            f"quant {quant!r}: a GPU's weights are rounded by torchao, which is not installed: install cortex's extra "
            "'gpu', or leave quant out"
        )
    if quant == "int4" and torch.cuda.get_device_capability(device) < _INT4_CAPABILITY:
        raise CannotLoad(f"quant 'int4' needs a GPU of compute capability 8.0, and {device} has less: int8 does not")


def round_weights(module: nn.Module, quant: str, device: torch.device) -> int:
    """Round the matrices of layers, each on the device: the whole model is never there as it was. How many they are.

    Whole rows share a scale, 128 of a row in int4.
    """
    from torchao.quantization import quantize_

    head = {id(layer) for name, layer in module.named_modules() if name.rpartition(".")[0] in ("", "lm_head")}
    rounded: list[str] = []

    def is_rounded(layer: nn.Module, name: str) -> bool:
        if not isinstance(layer, nn.Linear) or id(layer) in head:
            return False
        if quant == "int4" and int(layer.in_features) % _GROUP:
            return False
        rounded.append(name)
        return True

    quantize_(module, _config(quant), filter_fn=is_rounded, device=device)
    return len(rounded)


def _config(quant: str) -> Any:
    from torchao import quantization

    if quant == "int8":
        return quantization.Int8WeightOnlyConfig(set_inductor_config=False)
    if quant == "fp8":
        return quantization.Float8WeightOnlyConfig(set_inductor_config=False)
    # The format of torch's own kernel; the others want a further package.
    return quantization.Int4WeightOnlyConfig(
        group_size=_GROUP, set_inductor_config=False, int4_packing_format="tile_packed_to_4d"
    )
