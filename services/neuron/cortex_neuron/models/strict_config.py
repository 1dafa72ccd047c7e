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

    class Strict(kind, PreTrainedConfig):  # type: ignore[misc, valid-type]  # transformers has no types here
        def __post_init__(self, **kwargs: Any) -> None:
            self.complete()
            super().__post_init__(**kwargs)

    return strict(Strict)
