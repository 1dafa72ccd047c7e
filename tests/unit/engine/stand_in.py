"""A model that costs nothing and forgives nothing: what it says next depends on every token of a sequence, as it is
found in the cache.

The content of a slot is a hash of the token there and of the content before it, read through the sequence's table, as
the keys and values of a real model depend on all tokens before them. The next token is a hash of the contents at all
positions. So a block of another text, one that was not computed, or one that was overwritten gives a wrong token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from cortex_neuron.engine.draft_model import DraftLimits, DraftModel
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.sequence import Drafts
from cortex_neuron.layers.batch import Batch
from cortex_neuron.layers.paged import filled_in
from cortex_neuron.models.loaded import CacheShape, LoadedModel

VOCAB = 50
EOS = 7
_SHAPE = CacheShape(layers=1, kv_heads=1, head_dim=1, dtype=torch.float32)
_MODULUS = (1 << 61) - 1


def _content(before: int, token: int) -> int:
    return (before * 1_000_003 + token + 1) % _MODULUS


def _next_tokens(contents: Sequence[int]) -> list[int]:
    """What comes after each position."""
    sums = accumulate(content * (2 * i + 1) for i, content in enumerate(contents))
    return [each % _MODULUS % VOCAB for each in sums]


def answer(prompt: Sequence[int], max_tokens: int, context: int) -> list[int]:
    """What a prompt gets, without any cache."""
    contents: list[int] = []
    for token in prompt:
        contents.append(_content(contents[-1] if contents else 0, token))
    tokens: list[int] = []
    while len(tokens) < max_tokens and len(contents) < context:
        tokens.append(_next_tokens(contents)[-1])
        if tokens[-1] == EOS or len(tokens) + len(prompt) >= context:
            break
        contents.append(_content(contents[-1], tokens[-1]))
    return tokens


class StandIn:
    """Runs batches. `fails` makes the next one fail when it has written half of its rows, wrong ones."""

    def __init__(self, num_slots: int) -> None:
        self._contents = [-1] * num_slots
        self.fails = False
        self.num_computed = 0

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        """Logits [wanted, vocab]"""
        tokens = filled_in(torch.from_numpy(batch.tokens), drawn).numpy()
        assert (tokens >= 0).all(), "an unknown token is one that has been drawn"
        batch = replace(batch, tokens=tokens)
        if self.fails:
            self.fails = False
            for slot in batch.slots[: len(batch.slots) // 2 + 1].tolist():
                self._contents[slot] = 1
            raise ValueError("a shape error")
        self.num_computed += batch.num_rows
        said = [token for i in range(len(batch.pasts)) for token in self._sequence(batch, i)]
        logits = torch.zeros(len(batch.wanted), VOCAB)
        for place, row in enumerate(batch.wanted.tolist()):
            logits[place, said[row]] = 1.0
        return logits

    def _sequence(self, batch: Batch, i: int) -> list[int]:
        """What comes after each of its rows."""
        size, table = batch.block_size, batch.table(i)
        places = [int(table[p // size]) * size + p % size for p in range(batch.lengths[i])]
        past = int(batch.pasts[i])
        rows = slice(batch.starts[i], batch.starts[i + 1])
        assert batch.slots[rows].tolist() == places[past:], "rows are written where the table says"
        before = self._contents[places[past - 1]] if past else 0
        for token, slot in zip(batch.tokens[rows].tolist(), places[past:], strict=True):
            before = self._contents[slot] = _content(before, token)
        return _next_tokens([self._contents[slot] for slot in places])[past:]


def start_engine(
    size: CacheSize,
    max_sequences: int,
    step_tokens: int,
    draft: Callable[[int], Drafts] | None = None,
    overlaps: bool = False,
) -> tuple[Engine, StandIn]:
    """An engine whose batches the stand-in computes."""
    model = LoadedModel(nn.Module(), torch.device("cpu"), _SHAPE, size.context, VOCAB, (EOS,))
    runs = StandIn(size.num_blocks * size.block_size)
    engine = Engine(model, size, max_sequences, step_tokens, lead=lambda _: runs, draft=draft, overlaps=overlaps)
    return engine, runs


def start_drafted(
    size: CacheSize, max_sequences: int, step_tokens: int, tokens: int = 4, context: int = 1 << 20
) -> tuple[Engine, StandIn, StandIn]:
    """An engine with a draft model, which says the same. What the one computes, then what the other does."""
    judge = LoadedModel(nn.Module(), torch.device("cpu"), _SHAPE, size.context, VOCAB, (EOS,))
    drafter = LoadedModel(nn.Module(), torch.device("cpu"), _SHAPE, context, VOCAB, (EOS,))
    draft_model = DraftModel(drafter, size, DraftLimits(tokens, max_sequences, step_tokens, VOCAB))
    runs, guesses = (StandIn(size.num_blocks * size.block_size) for _ in range(2))
    draft_model._runner = guesses
    engine = Engine(judge, size, max_sequences, step_tokens, lead=lambda _: runs, draft_model=draft_model)
    return engine, runs, guesses


def prompt_of(rng: np.random.Generator, length: int) -> list[int]:
    """Random tokens."""
    tokens: list[int] = rng.integers(0, VOCAB, length).tolist()
    return tokens
