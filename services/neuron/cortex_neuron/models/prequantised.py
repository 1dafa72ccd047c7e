"""Checkpoints whose weights are quantised already, as `quantization_config` in their config.json says.

Owns: which methods there are, what each needs, and how transformers is told to read them. Does not own: the reading
(transformers' quantizers), or rounding by the catalogue (models.rounding). Called by: models.loader.

compressed-tensors and fp8 are dequantised while they are read: there is no kernel for them here that a host without
access to a hub could have. `quant` may round them again. AWQ and GPTQ stay as they are, by gptqmodel's kernels.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cortex_neuron.models.asked import Asked
from cortex_neuron.protocol.failures import CannotLoad


@dataclass(frozen=True, slots=True)
class Method:
    """`packages`: by the name that is imported, the name that is installed."""

    packages: dict[str, str]
    is_dequantised: bool


METHODS = {
    "compressed-tensors": Method({"compressed_tensors": "compressed-tensors"}, is_dequantised=True),
    "fp8": Method({"accelerate": "accelerate"}, is_dequantised=True),
    "awq": Method({"gptqmodel": "gptqmodel", "accelerate": "accelerate"}, is_dequantised=False),
    "gptq": Method({"gptqmodel": "gptqmodel", "optimum": "optimum"}, is_dequantised=False),
}


def settings(config: Any) -> dict[str, Any] | None:
    """`quantization_config`, where there is one."""
    found = getattr(config, "quantization_config", None)
    if not found:
        return None
    return dict(found) if isinstance(found, dict) else dict(found.to_dict())


def refuse(config: Any, path: Path) -> None:
    """Raises CannotLoad for a quantised checkpoint, where none is taken."""
    if said := settings(config):
        raise CannotLoad(f"{path}: quant_method {said.get('quant_method')!r} is not supported here, expected none")


def check(config: Any, asked: Asked) -> None:
    """Raises CannotLoad for a quantised checkpoint that cannot be read here, before its weights are."""
    said = settings(config)
    if said is None:
        return
    name = str(said.get("quant_method"))
    method = METHODS.get(name)
    if method is None:
        raise CannotLoad(f"{asked.path}: quant_method {name!r} is not supported, expected one of {(*METHODS,)}")
    if missing := [package for module, package in method.packages.items() if not importlib.util.find_spec(module)]:
        raise CannotLoad(
            f"{asked.path}: quant_method {name!r} is read by {' and '.join(missing)}, which is not installed: "
            "the extra 'gpu' of cortex has what can be had without a compiler"
        )
    if asked.collectives is not None:
        raise CannotLoad(f"{asked.path}: quant_method {name!r} is not divided: tensor_parallel must be 1")
    if method.is_dequantised:
        return
    if asked.on_cpu:
        raise CannotLoad(f"{asked.path}: quant_method {name!r} needs a GPU")
    if asked.quant is not None:
        raise CannotLoad(
            f"{asked.path}: quant {asked.quant!r} would round weights that are {name} already: leave it out"
        )


def as_read(config: Any) -> Any:
    """The config that transformers is to read the checkpoint with."""
    said = settings(config)
    if said is None or not METHODS[str(said["quant_method"])].is_dequantised:
        return config
    told = copy.deepcopy(config)
    # transformers 5.17 knows the latter word for compressed-tensors, 5.23 both.
    told.quantization_config = said | {"dequantize": True}
    if said["quant_method"] == "compressed-tensors":
        told.quantization_config["run_compressed"] = False
    return told
