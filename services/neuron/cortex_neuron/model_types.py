"""The kinds of models that engines of our own compute, by the names that their files have for them.

Read by: residency.architectures, before any process starts, and cortex_neuron.models, in every rank: one list for both,
so it lies beside them and imports neither, nor torch.
"""

from __future__ import annotations

# `model_type` of a folder's config.json, of models that write; each agrees with transformers' own logits, by test
DECODER_TYPES = (
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
)

# Those of the BERT class: they read a text both ways, to embed it or to rank it; each agrees with transformers, by test
ENCODER_TYPES = (
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
)

# `general.architecture` of a GGUF file -> model_type; a llama with experts is a mixtral
GGUF_ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}

# `tokenizer.ggml.pre` of a GGUF file, of byte-level vocabularies that are read without transformers
GGUF_SPLITS = frozenset({"qwen2", "smollm"})
