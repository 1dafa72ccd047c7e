"""How the next token is chosen, resolved: client, then catalogue, then the model's file, then defaults (case W9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cortex_dialects.generation import Sampling
from cortex_neuron.protocol.frames import SamplingParams

_OF_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_OF_CLIENT = (*_OF_MODEL, "seed", "presence_penalty", "frequency_penalty")


def resolve(asked: Sampling, generation_config: Mapping[str, Any]) -> SamplingParams:
    """The parameters for the engine. `generation_config` is the model's, with the catalogue's word above it."""
    values = {name: generation_config[name] for name in _OF_MODEL if generation_config.get(name) is not None}
    if generation_config.get("do_sample") is False and "temperature" not in values:
        values["temperature"] = 0.0
    said = {name: value for name in _OF_CLIENT if (value := getattr(asked, name)) is not None}
    values |= said
    values["top_k"] = max(0, int(values.get("top_k", 0)))  # -1 is off, too
    return SamplingParams(**values, logit_bias=asked.logit_bias)


def of_choice(params: SamplingParams, k: int) -> SamplingParams:
    """The parameters of a prompt's k-th answer: with a seed, each has its own, or all would be the same."""
    return params if params.seed is None or k == 0 else msgspec.structs.replace(params, seed=params.seed + k)
