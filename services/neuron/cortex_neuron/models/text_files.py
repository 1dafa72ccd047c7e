"""What the daemon needs to turn text into tokens and back, left in a folder.

Owns: tokenizer.json, special_tokens.json, chat_template.jinja and generation_config.json of `Load.text_dir`, and the
marker that says which model they are of. Does not own: their use (cortex_neuron.text). Called by: models.loader.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from cortex_neuron.models import byte_level
from cortex_neuron.models.gguf_file import GgufFile
from cortex_neuron.protocol.failures import CannotLoad

MARKER = "complete.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_GGUF_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_GGUF_CONTROL = 3  # tokenizer.ggml.token_type of a special token
# Ends of turn that a GGUF file does not always name as an eos; llama.cpp knows them by their text, too.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")


def write_once(text_dir: Path, source: Path, write: Callable[[Path], None]) -> None:
    """Run `write` unless the folder has the files of this one file already."""
    facts = source.stat()
    wanted = {"source": str(source), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    marker = text_dir / MARKER
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return
    write_anew(text_dir, write)
    begun = marker.with_suffix(".begun")  # or half a marker would be left by a rank that is killed
    begun.write_text(json.dumps(wanted))
    begun.rename(marker)


def write_anew(text_dir: Path, write: Callable[[Path], None]) -> None:
    """Run `write` on an empty folder."""
    shutil.rmtree(text_dir, ignore_errors=True)
    text_dir.mkdir(parents=True)
    write(text_dir)


# ---- a Hugging Face folder


def write_from_folder(folder: Path, text_dir: Path) -> None:
    """Copies what is there; a folder without tokenizer.json goes through transformers' converter."""
    if (folder / "tokenizer.json").exists():
        shutil.copyfile(folder / "tokenizer.json", text_dir / "tokenizer.json")
    else:
        _converted_tokenizer(folder).save(str(text_dir / "tokenizer.json"))
    settings = read_json(folder / "tokenizer_config.json")
    tokens = read_json(folder / "special_tokens_map.json") | settings
    special = {name: _token_text(tokens[name]) for name in _SPECIAL if tokens.get(name)}
    (text_dir / "special_tokens.json").write_text(json.dumps(special))
    if template := _chat_template(folder, settings):
        (text_dir / "chat_template.jinja").write_text(template)
    if (folder / "generation_config.json").exists():
        shutil.copyfile(folder / "generation_config.json", text_dir / "generation_config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Its content; empty where there is no such file. Raises CannotLoad."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CannotLoad(f"{path}: cannot be read: it is not a JSON object")
    return content


def _converted_tokenizer(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:
        words = str(error).replace("\n", " ")
        raise CannotLoad(
            f"{folder}: there is no tokenizer.json, and none can be made of other files: {words}"
        ) from error
    return tokenizer


def _token_text(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text()
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {str(entry["name"]): str(entry["template"]) for entry in template}
        return named.get("default")
    return template


# ---- a GGUF file


def write_from_gguf(file: GgufFile, text_dir: Path) -> None:
    """The tokenizer, here or through transformers' converter; the rest from the metadata."""
    _gguf_tokenizer(file).save(str(text_dir / "tokenizer.json"), pretty=False)
    tokens = file.metadata["tokenizer.ggml.tokens"]
    ids = {name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _GGUF_SPECIAL.items()}
    special = {name: tokens[i] for name, i in ids.items() if i is not None}
    (text_dir / "special_tokens.json").write_text(json.dumps(special))
    if template := file.metadata.get("tokenizer.chat_template"):
        (text_dir / "chat_template.jinja").write_text(template)
    generation = {
        "bos_token_id": ids["bos_token"],
        "eos_token_id": gguf_eos_ids(file),
        "pad_token_id": ids["pad_token"],
    }
    (text_dir / "generation_config.json").write_text(json.dumps(generation))


def gguf_eos_ids(file: GgufFile) -> list[int]:
    """Every token that ends a text or a turn."""
    ends = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    kinds = file.metadata.get("tokenizer.ggml.token_type", [])
    tokens = file.metadata["tokenizer.ggml.tokens"]
    ends += [i for i, kind in enumerate(kinds) if kind == _GGUF_CONTROL and tokens[i] in _END_OF_TURN]
    return sorted({i for i in ends if i is not None})


def _gguf_tokenizer(file: GgufFile) -> Tokenizer:
    tokenizer = byte_level.tokenizer(file.metadata) or _converted_vocabulary(file)
    _add_bos(file, tokenizer)
    return tokenizer


def _converted_vocabulary(file: GgufFile) -> Tokenizer:
    """Through transformers."""
    architecture = file.architecture()
    try:
        from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
    except ImportError:  # transformers before 5.19 has it elsewhere, and knows some architectures by their model_type
        from transformers.integrations.ggml import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

        architecture = {"gemma3": "gemma3_text", "qwen3moe": "qwen3_moe"}.get(architecture, architecture)
    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    values = {
        name: file.metadata[f"tokenizer.{key}"] for key, name in names.items() if f"tokenizer.{key}" in file.metadata
    }
    tokenizer: Tokenizer = convert_gguf_tokenizer(architecture, values)[0]
    if file.metadata.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.pre_tokenizer = byte_level.smollm_split()
    return tokenizer


def _add_bos(file: GgufFile, tokenizer: Tokenizer) -> None:
    """llama.cpp's rule: as the flag says; without one, only a sentencepiece vocabulary gets it."""
    by_default = file.metadata.get("tokenizer.ggml.model") == "llama"
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    if bos is None or not file.metadata.get("tokenizer.ggml.add_bos_token", by_default):
        return
    text = file.metadata["tokenizer.ggml.tokens"][bos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A {text} $B", special_tokens=[(text, bos)]
    )
