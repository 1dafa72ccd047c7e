"""Token ids in, text out, one token at a time (case S1).

Owns: holding back a character whose bytes have not all come. The deltas' concatenation is the whole text; the
replacement character appears only for bytes that are wrong in the end. Called by: choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_NONE: Mapping[int, str] = MappingProxyType({})
_LONGEST_CHARACTER = 4  # bytes of UTF-8, so tokens of a byte each


class Detokenizer:
    """The text of one sequence. `before` are the tokens that it continues, whose text is not repeated.

    Special tokens have no text, but for `shown`: those that stand for something in an answer.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), shown: Mapping[int, str] = _NONE) -> None:
        self._shown = shown
        self._tokenizer = tokenizer
        # Some decoders take the space off a text's first word; a continuation's first word is not that.
        known = str(tokenizer.decode(before, skip_special_tokens=True)) if before else ""
        primed = list(before) if known and not known.endswith("\N{REPLACEMENT CHARACTER}") else []
        self._stream = DecodeStream(ids=primed, skip_special_tokens=True)
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        if token in self._shown:
            return self.end() + self._shown[token]
        self._held.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001  the library gives up on some invalid sequences and cannot go on from there
            return self._give_up()
        if text is None and not self._tokenizer.decode([token], skip_special_tokens=True):
            self._held.pop()  # a special token: there is no text of it to wait for
            return ""
        if text is None:
            return self._give_up() if len(self._held) > 2 * _LONGEST_CHARACTER else ""
        self._held.clear()
        return str(text)

    def end(self) -> str:
        """What is still held: bytes that no later token completed."""
        return self._give_up() if self._held else ""

    def _give_up(self) -> str:
        text = str(self._tokenizer.decode(self._held, skip_special_tokens=True))
        self._held.clear()
        self._stream = DecodeStream(skip_special_tokens=True)
        return text
