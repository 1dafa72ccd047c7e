"""The model architectures that the torch harness serves, known before any process starts (case T11).

Owns: the set, and the refusals. Does not own: the models (cortex_neuron.models, which a test keeps equal to this), or
what can be divided (cortex_neuron.shards).
Called by: residency, before a group is started. No torch here.
"""

from __future__ import annotations

from cortex_contracts.inventory.fleet import Task
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron import shards
from cortex_neuron.shards import Figures

# `model_type` of a folder's config.json
MODEL_TYPES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "llama",
        "mistral",
        "mixtral",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    }
)

# Those of the BERT class: they read a text both ways, to embed it or to rank it
ENCODER_TYPES = frozenset(
    {
        "albert",
        "bert",
        "camembert",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "roberta",
        "xlm-roberta",
    }
)

# `general.architecture` of a GGUF file -> model_type
GGUF_ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}


_OF_TASK = {"generate": MODEL_TYPES, "embed": MODEL_TYPES | ENCODER_TYPES, "rerank": ENCODER_TYPES}


def check(model_type: str, task: Task = "generate") -> None:
    """Raises UnsupportedArchitecture, which names the type and the set."""
    if model_type not in _OF_TASK[task]:
        with_task = "" if task == "generate" else f" with task {task}"
        raise UnsupportedArchitecture(
            f"model_type {model_type!r} is not supported by harness 'torch'{with_task}, "
            f"expected one of {sorted(_OF_TASK[task])}"
        )


def check_gguf(architecture: str) -> None:
    """Raises UnsupportedArchitecture for a GGUF file's architecture, which names it and the set."""
    if architecture not in GGUF_ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"GGUF architecture {architecture!r} is not supported by harness 'torch', "
            f"expected one of {sorted(GGUF_ARCHITECTURES)}"
        )


def check_tensor_parallel(figures: Figures, world_size: int) -> None:
    """Raises UnsupportedArchitecture, which names what cannot be divided over so many ranks, and how many could."""
    if words := shards.fault(figures, world_size):
        raise UnsupportedArchitecture(words)
