"""A model folder for scripted_rank: a tokenizer whose ids are bytes, a chat template, and orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}{{ message.role }}\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Ids 0 to 255 are bytes, 256 is <|end|>, 257 <|start|>, 258 </think>."""
    tokenizer = Tokenizer(models.BPE(vocab={char: byte for byte, char in _byte_chars().items()}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|start|>", special=True)])
    tokenizer.add_tokens([AddedToken("</think>")])
    return tokenizer


def write_model(
    folder: Path, *, template: str | None = TEMPLATE, generation: dict[str, Any] | None = None, **orders: Any
) -> Path:
    """A model folder, with `orders` for scripted_rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "special_tokens.json").write_text(json.dumps({"bos_token": "<|start|>", "eos_token": "<|end|>"}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "script.json").write_text(json.dumps(orders))
    return folder


def _byte_chars() -> dict[int, str]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + place) for place, byte in enumerate(rest)}
