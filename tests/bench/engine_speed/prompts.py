"""Prompts of an exact number of tokens, no two alike.

Owns: the words, each of which is one token wherever it stands. Called by: loads.py.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from tokenizers import Tokenizer

_NUM_WORDS = 400


class Prompts:
    """Text of random words; `seed` makes two runs differ, or agree."""

    def __init__(self, tokenizer_file: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._words = list(itertools.islice(self._single_tokens(), _NUM_WORDS))

    def text(self, num_tokens: int, head: str = "") -> str:
        """`num_tokens` tokens of text, after `head`, itself such a text. Raises ValueError where they are other."""
        words = " ".join(self._random.choices(self._words, k=num_tokens))
        if self._num_tokens(f" {words}") != num_tokens:
            raise ValueError(f"the tokenizer joins words to other tokens than their own: {words[:100]}")
        return f"{head} {words}" if head else words

    def _single_tokens(self) -> itertools.chain[str]:
        ordered = sorted(self._tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        bare = (token.removeprefix("Ġ") for token, _ in ordered if token.startswith("Ġ"))
        words = (word for word in bare if word.isascii() and word.isalpha() and word.islower() and len(word) > 2)
        return itertools.chain(word for word in words if self._num_tokens(word) == self._num_tokens(f" {word}") == 1)

    def _num_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
