"""Drafts that tests know the worth of, in the place of engine.prompt_lookup."""

from __future__ import annotations

import random

import numpy as np
from stand_in import VOCAB, answer

from cortex_neuron.layers.batch import Ints


class Guesses:
    """Drafts of what the stand-in will say, each token of them right by this chance."""

    def __init__(self, chance: float, context: int) -> None:
        self._chance, self._context = chance, context
        self._random = random.Random(0)
        self.num_learnt = 0

    def propose(self, tokens: Ints, most: int) -> Ints:
        """As many as there is room for, also beyond the end of the answer."""
        right = answer(tokens.tolist(), max(0, most), self._context)
        right += [1] * (most - len(right))
        wrong = [token if self._random.random() < self._chance else (token + 1) % VOCAB for token in right]
        return np.array(wrong, np.int32)

    def learn(self, drafted: int, accepted: int) -> None:
        assert 0 <= accepted <= drafted
        self.num_learnt += 1


class Replay:
    """Drafts of a text that is known to come, prompt and answer, each `wrong_every`th token of it changed."""

    def __init__(self, text: list[int], wrong_every: int, _: int) -> None:
        self._text = np.array(text, np.int32)
        self._text[wrong_every - 1 :: wrong_every] ^= 1

    def propose(self, tokens: Ints, most: int) -> Ints:
        return self._text[len(tokens) : len(tokens) + max(0, most)]

    def learn(self, drafted: int, accepted: int) -> None:
        assert 0 <= accepted <= drafted
