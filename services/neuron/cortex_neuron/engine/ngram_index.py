"""Where the last few tokens of a text have stood before: a table of places, kept up to date token by token.

Owns: the table. Does not own: the text, which only grows, or what is made of a place (engine.prompt_lookup). No torch.

A place in the table is the end of one run of tokens, found by a hash of the run. Later ones write over earlier ones, so
that what is found is the latest, and the oldest of a very long text are forgotten; whatever a hash says, the tokens
themselves are compared. A step costs the same however long the text is: what comes at once, such as a prompt, is taken
in by so many tokens a call.
"""

from __future__ import annotations

import numpy as np

from cortex_neuron.layers.batch import Ints

NOWHERE = 0
MOST_AT_ONCE = 4096  # tokens that one call takes in, in some tenths of a millisecond
_FEW = 16  # as many are faster one by one
_SLOTS_A_TOKEN = 4
_LEAST_BITS, _MOST_BITS = 10, 18  # of the table's size; the largest takes 1 MiB
_FACTOR = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class NgramIndex:
    """Runs of `least` to `most` tokens of one text of up to `capacity` tokens."""

    def __init__(self, least: int, most: int, capacity: int) -> None:
        self._least, self._most = least, most
        bits = min(max((capacity * _SLOTS_A_TOKEN).bit_length(), _LEAST_BITS), _MOST_BITS)
        self._shift = 64 - bits
        self._ends = np.zeros(1 << bits, np.int32)  # pages that are touched when they are used
        self._end_at = self._ends.data
        self.num_indexed = 0  # runs that end up to here are in the table

    def find(self, tokens: Ints) -> int:
        """The end of the latest run before the last token that is what the text ends with, of the longest that is
        found; NOWHERE, too, while a long text is still being taken in."""
        text = tokens.data
        self._take_in(tokens, text)
        length = len(tokens)
        if self.num_indexed < length - 1:
            return NOWHERE
        for size, slot in reversed(self._slots(text, length)):
            end = self._end_at[slot]
            if end >= size and text[end - size : end] == text[length - size :]:
                return end
        return NOWHERE

    def _take_in(self, tokens: Ints, text: memoryview) -> None:
        last = min(len(tokens) - 1, self.num_indexed + MOST_AT_ONCE)
        while self.num_indexed < last and (self.num_indexed < self._most or last - self.num_indexed <= _FEW):
            self.num_indexed += 1
            for _, slot in self._slots(text, self.num_indexed):
                self._end_at[slot] = self.num_indexed
        if self.num_indexed < last:
            self._take_in_many(tokens, last)

    def _slots(self, text: memoryview, end: int) -> list[tuple[int, int]]:
        """Sizes of the runs that end here, and the places of each in the table."""
        slots, word = [], 0
        for size in range(1, min(self._most, end) + 1):
            word = (word + text[end - size] + 1) * _FACTOR & _WORD
            if size >= self._least:
                slots.append((size, word >> self._shift))
        return slots

    def _take_in_many(self, tokens: Ints, last: int) -> None:
        """The same, side by side."""
        ends = np.arange(self.num_indexed + 1, last + 1, dtype=np.int32)
        words = np.zeros(len(ends), np.uint64)
        for size in range(1, self._most + 1):
            words = (words + tokens[ends - size].astype(np.uint64) + np.uint64(1)) * np.uint64(_FACTOR)
            if size >= self._least:
                self._ends[(words >> np.uint64(self._shift)).astype(np.intp)] = ends  # of equal ones the last stays
        self.num_indexed = last
