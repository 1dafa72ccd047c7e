"""The model architectures that the torch harness serves, known before any process starts (case T11).

Owns: the refusals. Does not own: the kinds there are (cortex_neuron.model_types), or what can be divided
(cortex_neuron.shards).
Called by: residency, before a group is started. No torch here.
"""

from __future__ import annotations

from cortex_contracts.inventory.fleet import Task
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron import model_types, shards
from cortex_neuron.shards import Figures

MODEL_TYPES = frozenset(model_types.DECODER_TYPES)
ENCODER_TYPES = frozenset(model_types.ENCODER_TYPES)
GGUF_ARCHITECTURES = model_types.GGUF_ARCHITECTURES

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
