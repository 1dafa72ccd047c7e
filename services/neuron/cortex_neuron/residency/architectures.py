"""The model architectures that the torch harness serves, known before any process starts (case T11).

Owns: the set, and the refusal. Does not own: the models (cortex_neuron.models, which a test keeps equal to this).
Called by: residency, before a group is started. No torch here.
"""

from __future__ import annotations

from cortex_contracts.wire.errors import UnsupportedArchitecture

# `model_type` of a folder's config.json
MODEL_TYPES = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"})

# `general.architecture` of a GGUF file -> model_type
GGUF_ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}


def check(model_type: str) -> None:
    """Raises UnsupportedArchitecture, which names the type and the set."""
    if model_type not in MODEL_TYPES:
        raise UnsupportedArchitecture(
            f"model_type {model_type!r} is not supported by harness 'torch', expected one of {sorted(MODEL_TYPES)}"
        )


def check_gguf(architecture: str) -> None:
    """Raises UnsupportedArchitecture for a GGUF file's architecture, which names it and the set."""
    if architecture not in GGUF_ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"GGUF architecture {architecture!r} is not supported by harness 'torch', "
            f"expected one of {sorted(GGUF_ARCHITECTURES)}"
        )
