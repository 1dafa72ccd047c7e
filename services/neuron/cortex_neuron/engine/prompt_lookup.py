"""Drafts by prompt lookup: a text that ends as it did before is taken to go on as it did then.

Owns: how far a draft goes, and whether one is tried at all. Does not own: finding the place (engine.ngram_index), or
what of a draft is kept: the model says that (engine.draws), and whatever is drafted, the answer is the same. Made by:
engine.engine, one a sequence, where the model's entry asks for it. The method is A. Saxena's prompt lookup decoding.
"""

from __future__ import annotations

import numpy as np

from cortex_neuron.engine.ngram_index import NOWHERE, NgramIndex
from cortex_neuron.layers.batch import Ints
from cortex_neuron.protocol.frames import Speculation

# A text whose drafts fail is left alone for ever more steps, up to so many: then they cost it a hundredth of its time.
LONGEST_PAUSE = 63
_FIRST_LENGTH = 2
_NONE = np.zeros(0, np.int32)


class PromptLookup:
    """Drafts of one sequence, which may come to `capacity` tokens."""

    def __init__(self, settings: Speculation, capacity: int) -> None:
        self._index = NgramIndex(settings.prompt_lookup_min, settings.prompt_lookup_max, capacity)
        self._pace = Pace(settings.num_speculative_tokens)

    def propose(self, tokens: Ints, most: int) -> Ints:
        """What may come after `tokens`, which are those of the last call and more: at most `most`, often none."""
        count = min(self._pace.length(), most)
        place = self._index.find(tokens) if count > 0 else NOWHERE
        if place == NOWHERE:
            return _NONE
        # Where the text repeats itself over and over, it is read on into what has just been drafted.
        return tokens[place + np.arange(count) % (len(tokens) - place)]

    def learn(self, drafted: int, accepted: int) -> None:
        """What came of the last draft that was tried."""
        self._pace.learn(drafted, accepted)


class Pace:
    """How many tokens the next draft may have: more after one that was right, few and seldom after some that failed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = min(_FIRST_LENGTH, most)
        self._pause = self._left = 0

    def length(self) -> int:
        """For the next step; 0 while it pauses."""
        if self._left:
            self._left -= 1
            return 0
        return self._length

    def learn(self, drafted: int, accepted: int) -> None:
        """So many of the drafted were right."""
        if accepted == drafted:
            self._length = min(self._most, 2 * self._length)
        else:
            self._length = max(1, accepted)
        self._pause = self._pause // 2 if accepted else min(LONGEST_PAUSE, 2 * self._pause + 1)
        self._left = 0 if accepted else self._pause
