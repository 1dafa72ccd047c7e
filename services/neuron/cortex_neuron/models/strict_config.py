"""Configs of models that native kernels compute, read by transformers: those that are not plain.

Owns: transformers' base class with the fields of cortex_neuron.native_config. Does not own: these, or what they default
to. Called by: models.loader, which imports it where it must: with it comes transformers.

Importing transformers' own class of such a model brings in torch's compiler, 1.3 s of each load, in a rank that has no
other use for it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from cortex_neuron.native_config import CLASSES, NativeConfig


def read(kind: type[NativeConfig], values: dict[str, Any]) -> NativeConfig:
    """What config.json says. Raises what transformers does of it."""
    config: NativeConfig = _class(kind.model_type).from_dict(values)
    return config


@cache
def _class(model_type: str) -> Any:
    kind = CLASSES[model_type]
    base = _TurnsByLayer if isinstance(kind.default_theta, dict) else PreTrainedConfig

    class Strict(kind, base):  # type: ignore[misc, valid-type]  # transformers has no types here
        def __post_init__(self, **kwargs: Any) -> None:
            self.complete(**kwargs)
            super().__post_init__(**kwargs)

    return strict(Strict)


class _TurnsByLayer(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types here
    """Layers that slide turn otherwise than the others, and only the others' rotation is scaled."""

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        each = {} if self.rope_parameters is None else self.rope_parameters  # type: ignore[has-type]
        for kind in ("full_attention", "sliding_attention"):
            if each.get(kind) is None:
                each[kind] = {"rope_type": "default"}
        each["full_attention"].update(kwargs.pop("rope_scaling", None) or {})
        thetas = {
            "full_attention": kwargs.pop("rope_theta", self.default_theta["global"]),
            "sliding_attention": kwargs.pop("rope_local_base_freq", self.default_theta["local"]),
        }
        for kind, theta in thetas.items():
            each[kind].setdefault("rope_theta", theta)
        self.rope_parameters = each
        self.standardize_rope_params()
        return kwargs
