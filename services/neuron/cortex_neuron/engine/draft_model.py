"""Drafts by a draft model: a smaller one of the same vocabulary says what comes next, and the model judges that.

Owns: the draft model's KV cache, and how far in it each running sequence is. Does not own: the blocks, which are the
model's: a block has a sequence's tokens in both caches, so that room, preemption and the prefix cache are the same for
both. Nor what of a draft is kept (engine.draws): whatever is drafted, the answer is the same. Called by: engine.engine.
The method is Y. Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2023, with greedy drafts.

The draft model lags behind: a text is taken in when a draft of it is wanted, so many tokens a step, and a crowd, which
has no drafts, costs nothing. What it has computed of a full block is remembered for those who find that block later.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.engine.prompt_lookup import Pace
from cortex_neuron.engine.runner import Runs, runner_for
from cortex_neuron.engine.sequence import Sequence
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.layers.batch import Batch, Ints, Tables, make_batch
from cortex_neuron.models.loaded import LoadedModel

_NONE = np.zeros(0, np.int32)


class Blanks:
    """How many tokens the draft model is to guess for one sequence: `engine.sequence.Drafts`, with the tokens open."""

    def __init__(self, most: int, context: int) -> None:
        self._pace = Pace(most)
        self._context = context

    def propose(self, tokens: Ints, most: int) -> Ints:
        """Room for as many as DraftModel.guess is to write; beyond its own context the draft model has none."""
        count = min(self._pace.length(), most, self._context - len(tokens))
        return np.zeros(count, np.int32) if count > 0 else _NONE

    def learn(self, drafted: int, accepted: int) -> None:
        """What came of the last draft that was tried."""
        self._pace.learn(drafted, accepted)


@dataclass(frozen=True, slots=True)
class DraftLimits:
    tokens: int  # of a draft
    sequences: int  # that run, at most
    step_tokens: int  # of texts that are taken in at once
    vocab_size: int  # of the model that judges


class DraftModel:
    """`size` and the seats are the engine's."""

    def __init__(
        self, model: LoadedModel, size: CacheSize, limits: DraftLimits, plan: ThreadPlan | None = None
    ) -> None:
        self._model, self._limits, self._block_size = model, limits, size.block_size
        self._cache = KVCache(model.shape, size, model.device)
        self._runner: Runs = runner_for(model, self._cache, plan, None)
        self._computed = np.zeros(limits.sequences, np.int32)  # by seat: tokens that are in the cache
        self._is_full = np.zeros(size.num_blocks, np.bool_)  # by block: all of its tokens are

    @property
    def num_bytes(self) -> int:
        """Of its weights and its cache."""
        return self._model.num_bytes + self._cache.num_bytes

    def blanks(self, _: int) -> Blanks:
        """For a new sequence."""
        return Blanks(self._limits.tokens, self._model.context)

    # ---- what becomes of seats and blocks

    def join(self, sequence: Sequence, blocks: Row[int]) -> None:
        """It has been given a seat, and these blocks have its first tokens."""
        full = self._is_full[np.array(blocks, np.intp)]
        num_full = len(full) if full.all() else int(full.argmin())
        self._computed[sequence.seat] = num_full * self._block_size

    def renew(self, blocks: Row[int]) -> None:
        """What was in them is gone."""
        self._is_full[np.array(blocks, np.intp)] = False

    def replace(self, sequence: Sequence, index: int, block: int) -> None:
        """Its block `index` is now this one, of the same text."""
        if not self._is_full[block]:
            self._computed[sequence.seat] = min(int(self._computed[sequence.seat]), index * self._block_size)

    def settle(self, sequence: Sequence) -> None:
        """It has been given tokens; what was drafted beyond them is to be computed again."""
        self._computed[sequence.seat] = min(int(self._computed[sequence.seat]), sequence.length - 1)

    # ---- guessing

    def guess(self, asked: Row[tuple[Sequence, Ints]], tables: Ints) -> list[Ints]:
        """Write each draft; one whose text is not taken in yet has none. Tables [seats, blocks] have room for them."""
        sequences, drafts = [each for each, _ in asked], [draft for _, draft in asked]
        seats = np.array([each.seat for each in sequences], np.intp)
        lengths = np.array([each.length for each in sequences], np.int32)
        going, tokens = self._take_in(sequences, seats, lengths, tables)
        drafts = [draft if index in going else _NONE for index, draft in enumerate(drafts)]
        num_guessed = 0
        while True:
            for index, token in zip(going, tokens.tolist(), strict=True):
                drafts[index][num_guessed] = token
            num_guessed += 1
            longer = [index for index in going if len(drafts[index]) > num_guessed]
            if not longer:
                break
            tokens = tokens[[going.index(index) for index in longer]]
            going = longer
            ones = np.ones(len(going), np.int32)
            tokens = self._best(tokens, ones, lengths[going] + num_guessed - 1, seats[going], tables, ones > 0)
        drafted = np.array([max(0, len(draft) - 1) for draft in drafts], np.int32)
        self._computed[seats] += drafted
        return drafts

    def _take_in(
        self, sequences: Row[Sequence], seats: NDArray[np.intp], lengths: Ints, tables: Ints
    ) -> tuple[list[int], Ints]:
        """Compute what it lacks of the texts, the first ones' first. The places of those that it now has whole, and
        what comes next in each."""
        pasts = self._computed[seats]
        before = np.cumsum(lengths - pasts) - (lengths - pasts)
        counts = np.clip(self._limits.step_tokens - before, 0, lengths - pasts).astype(np.int32)
        ends = pasts + counts
        rows = np.flatnonzero(counts)
        text = np.concatenate([sequences[row].buffer[pasts[row] : ends[row]] for row in rows.tolist()])
        whole = (ends == lengths)[rows]
        best = self._best(text, counts[rows], pasts[rows], seats[rows], tables, whole)
        self._computed[seats] = ends
        for seat, num_full in zip(seats.tolist(), (ends // self._block_size).tolist(), strict=True):
            self._is_full[tables[seat, :num_full]] = True
        return rows[whole].tolist(), best

    def _best(
        self, tokens: Ints, counts: Ints, pasts: Ints, seats: NDArray[np.intp], tables: Ints, wanted: NDArray[np.bool_]
    ) -> Ints:
        """The likeliest token after the last of each span that is wanted."""
        starts = (seats * tables.shape[1]).astype(np.int32)
        last_rows = np.cumsum(counts, dtype=np.int32)[wanted] - 1
        # A model is asked for any id below its own size, also for those in reserve, which this one may not have.
        known = np.minimum(tokens, self._model.vocab_size - 1)
        flat = Tables(tables.reshape(-1), starts, self._block_size)
        return self._argmax(make_batch(known, counts, pasts, flat, last_rows))

    def _argmax(self, batch: Batch) -> Ints:
        logits = self._runner.run(batch)[:, : self._limits.vocab_size]
        best: Ints = logits.argmax(-1).to("cpu").numpy().astype(np.int32)
        return best
