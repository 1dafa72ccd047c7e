"""How a vLLM server is started: its arguments and its environment. Pure. Called by: harness.py."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model, Speculative
from cortex_neuron.residency.harness import Order

# What `quant` may say that is a type of numbers to vLLM; all else is one of its quantisations.
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_DTYPES |= {name: name for name in ("float32", "float16", "bfloat16", "half", "float", "auto")}
# It sends figures home unless told not to.
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
# Its names for what `tool_parser` may say.
_TOOL_PARSERS = {"qwen_xml": "qwen3_coder", "mistral_args": "mistral"}
_OF_THIS_PYTHON = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})


def arguments(order: Order, source: Path, socket: Path, settings: NeuronSection) -> list[str]:
    """The command. What the inventory adds comes last, where vLLM lets it win."""
    model = order.model
    return [
        settings.vllm_bin, "serve", str(source),
        "--uds", str(socket),
        "--served-model-name", model.id, *model.aliases,
        "--disable-uvicorn-access-log",
        "--enable-prompt-tokens-details",
        "--gpu-memory-utilization", memory_fraction(order),
        "--max-num-seqs", str(settings.max_sequences),
        *_if("--max-num-batched-tokens", settings.max_step_tokens),
        *_if("--max-model-len", model.context),
        *_parallel(model),
        *_numbers(model),
        *_if("--kv-cache-dtype", model.kv_cache_dtype),
        *_tools(model),
        *_if("--speculative-config", _drafts(model.speculative) if model.speculative else None),
        *_if("--override-generation-config", json.dumps(model.sampling) if model.sampling else None),
        *model.engine_args,
    ]  # fmt: skip


def environment(order: Order, settings: NeuronSection, inherited: Mapping[str, str]) -> dict[str, str]:
    """The daemon's, less what is of its Python, with the devices and the inventory's own."""
    known = {name: value for name, value in inherited.items() if name not in _OF_THIS_PYTHON}
    # As its environment's `activate` would: kernels that are compiled on first use look for tools there.
    known["PATH"] = f"{Path(settings.vllm_bin).parent}:{known.get('PATH', '/usr/bin:/bin')}"
    if order.model.ray_hosts > 1:
        known["RAY_ADDRESS"] = settings.vllm_ray_address  # and Ray chooses the devices
    elif "cpu" in order.rank_devices:
        known["CUDA_VISIBLE_DEVICES"] = ""
    else:
        known["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, order.devices))
    return known | _QUIET | settings.environment


def memory_fraction(order: Order) -> str:
    """The share of each device's memory that `vram_mb` comes to, rounded down. On a CPU vLLM means the host's."""
    share_mb = order.model.host_mb / len(order.rank_devices)
    smallest_mb = min((spec.vram_total_mb for spec in order.specs), default=0)
    fraction = min(0.99, share_mb / smallest_mb) if smallest_mb else 0.9
    return f"{max(1, math.floor(fraction * 10_000)) / 10_000:.4f}"


def _parallel(model: Model) -> list[str]:
    ways = ["--tensor-parallel-size", str(model.tensor_parallel)]
    ways += ["--pipeline-parallel-size", str(model.pipeline_parallel)]
    return [*ways, "--distributed-executor-backend", "ray"] if model.ray_hosts > 1 else ways


def _numbers(model: Model) -> list[str]:
    if model.quant is None:
        return []
    dtype = _DTYPES.get(model.quant)
    return ["--quantization", model.quant] if dtype is None else ["--dtype", dtype]


def _tools(model: Model) -> list[str]:
    if model.tool_parser is None:
        return []
    return ["--enable-auto-tool-choice", "--tool-call-parser", _TOOL_PARSERS.get(model.tool_parser, model.tool_parser)]


def _drafts(asked: Speculative) -> str:
    """Its names are the inventory's; what is for another method is left out."""
    lookup = {"prompt_lookup_max", "prompt_lookup_min"} if asked.method == "draft_model" else None
    return asked.model_dump_json(exclude=lookup, exclude_none=True)


def _if(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]
