"""Vocabularies of GGUF files that are made into tokenizers without transformers."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tokenizers import pre_tokenizers

from cortex_neuron import model_types
from cortex_neuron.models import byte_level, text_files
from cortex_neuron.models.gguf_file import GgufFile

_KEY = "tokenizer.ggml."
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_TOKENS = ["<|endoftext|>", "<|im_end|>", "<|ü|>", "<think>", "a b", "ab", "Ġab", *_ALPHABET]
_TYPES = [3, 3, 3, 4, 4, *([1] * (len(_TOKENS) - 5))]


class File:
    """What is read of one."""

    def __init__(self, **changes: Any) -> None:
        said = {
            "model": "gpt2", "pre": "smollm", "tokens": _TOKENS, "merges": ["a b", "Ġ ab"], "token_type": _TYPES,
            "bos_token_id": 0, "eos_token_id": 1,
        }  # fmt: skip
        self.metadata = {f"{_KEY}{key}": value for key, value in (said | changes).items() if value is not None}

    def architecture(self) -> str:
        return "llama"


@pytest.mark.parametrize("changes", [{}, {"token_type": None}, {"add_bos_token": True}])
@pytest.mark.parametrize("pre", sorted(model_types.GGUF_SPLITS))
def test_the_tokenizer_is_the_one_that_transformers_makes(pre: str, changes: dict[str, Any]) -> None:
    """To the letter: its tokens, merges, special tokens and way to split; also of tokens that are no bytes."""
    file = cast("GgufFile", File(pre=pre, **changes))
    ours = byte_level.tokenizer(file.metadata)
    assert ours is not None
    assert ours.to_str() == text_files._converted_vocabulary(file).to_str()
    assert ours.encode("ab 12<|endoftext|>").tokens[-1] == "<|endoftext|>"


def test_that_of_the_demo_model_is(demo_path: Any) -> None:
    """A real vocabulary."""
    file = GgufFile(demo_path)
    ours = byte_level.tokenizer(file.metadata)
    assert ours is not None
    assert ours.to_str() == text_files._converted_vocabulary(file).to_str()


@pytest.mark.parametrize(
    "changes",
    [{"pre": "llama-bpe"}, {"pre": None}, {"model": "llama"}, {"merges": None}, {"tokens": _TOKENS[1:]}],
)
def test_others_are_left_to_transformers(changes: dict[str, Any]) -> None:
    """Those of which it knows more, or to which it adds something."""
    assert byte_level.tokenizer(File(**changes).metadata) is None
