"""A Llama small enough that loading it costs nothing, with a tokenizer: for tests of processes, not of answers."""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 128


def write_tiny_model(folder: Path) -> Path:
    """Its tokens are words without a meaning."""
    from tokenizers import Tokenizer, models

    _write_weights(folder, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "w2"}, "chat_template": "x"}))
    return folder


MARKERS = ["<think>", "<tool_call>", "</tool_call>"]  # from 259 on
TOOL_CALL = 260


def write_byte_model(folder: Path, template: str) -> Path:
    """Its tokens are bytes, those of scripted_model, and MARKERS."""
    from scripted_model import byte_tokenizer
    from tokenizers import AddedToken

    more = {"max_position_embeddings": 2048, "bos_token_id": 257, "eos_token_id": 256, "pad_token_id": 0}
    _write_weights(folder, vocab_size=272, **more)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<|start|>", "eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def _write_weights(folder: Path, **config: int) -> None:
    """Random ones, the same each time; they divide over 2 and 4 ranks."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
    }
    settings = AutoConfig.for_model("llama", **(shape | config))
    AutoModelForCausalLM.from_config(settings, dtype=torch.float32).save_pretrained(folder)
