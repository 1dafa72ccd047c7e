"""The byte-level vocabulary of a GGUF file as a tokenizer, for the families whose way to split text is known here.

Owns: these families. Does not own: all others, which transformers converts; a test holds both to be the same. Called
by: models.text_files. To import what transformers needs for it takes longer than the rest of a small model's load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

_MODEL, _PRE, _TOKENS, _MERGES, _TYPES = (
    f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "merges", "token_type")
)
_CONTROL, _USER_DEFINED = 3, 4
_ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
_END = "<|endoftext|>"  # which transformers would add to a vocabulary that lacks it
# As tokenizer.json of Qwen 2 and 3 has it.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def smollm_split() -> pre_tokenizers.PreTokenizer:
    """Digits stand alone, then GPT-2's rule. Not in transformers' table."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _qwen2_split() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_SPLITS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {"smollm": smollm_split, "qwen2": _qwen2_split}


def tokenizer(metadata: Mapping[str, Any]) -> Tokenizer | None:
    """Of the file with this metadata, without a token that begins a text; None where it is transformers' to convert."""
    split = _SPLITS.get(metadata.get(_PRE, ""))
    tokens: list[str] = metadata.get(_TOKENS, [])
    if metadata.get(_MODEL) != "gpt2" or split is None or _MERGES not in metadata or _END not in tokens:
        return None
    vocabulary = {_spelled(token): i for i, token in enumerate(tokens)}
    merges = [(first, second) for first, _, second in (merge.partition(" ") for merge in metadata[_MERGES])]
    made = Tokenizer(BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    made.pre_tokenizer = split()
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    kinds = list(zip(tokens, metadata.get(_TYPES, ()), strict=False))
    control = [token for token, kind in kinds if kind == _CONTROL and _ALPHABET.issuperset(token)]
    whole = [token for token, kind in kinds if kind == _USER_DEFINED and token in vocabulary]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (_END, *control)])
    made.add_tokens([AddedToken(token, normalized=False, special=False) for token in whole])
    return made


def _spelled(token: str) -> str:
    """In the alphabet of bytes; what a file has as text, by its bytes."""
    if _ALPHABET.issuperset(token):
        return token
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(token)[0][0]
