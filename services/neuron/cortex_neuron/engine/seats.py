"""The running sequences side by side: one row of each array, a seat, is one sequence.

Owns: how much of each is computed, its block table, and the order of admission. Does not own: tokens and state
(engine.sequence), or which blocks are whose (engine.block_pool). Called by: engine.engine. What a step asks of all
sequences is one read of an array, and no table is ever copied: that keeps the bookkeeping of a step short.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Row
from dataclasses import dataclass

import numpy as np

from cortex_neuron.engine.scheduler import Running
from cortex_neuron.engine.sequence import NO_SEAT, Sequence
from cortex_neuron.layers.batch import Batch, Ints, Places, Tables, make_batch


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One step: its sequences and their seats in the order of the batch."""

    sequences: list[Sequence]
    wanted: list[Sequence]  # those that are given tokens
    places: Places  # of these among all
    drafts: list[list[int]]  # each one's, whose logits follow those after its own last token; empty if nobody has any
    seats: Places
    batch: Batch


class Seats:
    """`sequences` and `order`, their seats, are in the order of admission, oldest first."""

    def __init__(self, num_seats: int, max_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self.tables = np.zeros((num_seats, max_blocks), np.int32)
        self._known, self._computed, self._blocks, self._last, self._most = np.zeros((5, num_seats), np.int32)
        self._vacant = list(range(num_seats))
        self.sequences: list[Sequence] = []
        self.order: Places = np.zeros(0, np.intp)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def num_vacant(self) -> int:
        return len(self._vacant)

    # ---- coming and going

    def take(self, sequence: Sequence, cached: Row[int]) -> None:
        """Give a sequence a seat; the blocks `cached` hold its first tokens already."""
        seat = sequence.seat = self._vacant.pop()
        self._known[seat] = sequence.length
        self._last[seat] = sequence.buffer[sequence.length - 1]
        self._most[seat] = sequence.max_length
        self._computed[seat] = len(cached) * self._block_size
        self._blocks[seat] = len(cached)
        self.tables[seat, : len(cached)] = cached
        self.sequences.append(sequence)
        self.order = np.append(self.order, seat)

    def leave(self, sequence: Sequence) -> list[int]:
        """The blocks of one that goes, for the pool."""
        blocks = self.table(sequence)
        place = self.sequences.index(sequence)
        del self.sequences[place]
        self.order = np.delete(self.order, place)
        self._vacant.append(sequence.seat)
        sequence.seat = NO_SEAT
        return blocks

    # ---- asked

    def running(self) -> Running:
        """What the scheduler sees."""
        return Running(self._known[self.order], self._computed[self.order], self._blocks[self.order])

    def table(self, sequence: Sequence) -> list[int]:
        """Its blocks, in the order of its text."""
        blocks: list[int] = self.tables[sequence.seat, : self._blocks[sequence.seat]].tolist()
        return blocks

    # ---- a step

    def grow(self, places: Places, blocks: Row[int]) -> None:
        """One block more for each of the sequences at these places."""
        seats = self.order[places]
        self.tables[seats, self._blocks[seats]] = blocks
        self._blocks[seats] += 1

    def extend(self, sequence: Sequence, blocks: Row[int]) -> None:
        """Blocks for a chunk."""
        held = self._blocks[sequence.seat]
        self.tables[sequence.seat, held : held + len(blocks)] = blocks
        self._blocks[sequence.seat] += len(blocks)

    def room(self, sequence: Sequence) -> int:
        """How many tokens its blocks have room for, after the one that it computes next."""
        return int(self._blocks[sequence.seat]) * self._block_size - int(self._computed[sequence.seat]) - 1

    def work(self, decode: Places, chunks: Row[tuple[Sequence, int]], drafts: Row[tuple[Sequence, Ints]] = ()) -> Work:
        """One token of each sequence at the places `decode`, which it ends with, so many of the others, and of those
        with drafts the one that they end with and these."""
        seats = self.order[decode]
        sequences = _at(self.sequences, decode)
        tokens, counts = self._last[seats], np.ones(len(seats), np.int32)
        if chunks or drafts:
            others = [sequence for sequence, _ in (*chunks, *drafts)]
            parts = [self._next(sequence, n) for sequence, n in chunks]
            parts += [np.append(self._last[sequence.seat], draft) for sequence, draft in drafts]
            sequences += others
            seats = np.concatenate((seats, np.array([sequence.seat for sequence in others], np.intp)))
            counts = np.concatenate((counts, np.array([len(part) for part in parts], np.int32)))
            tokens = np.concatenate((tokens, *parts))
        pasts = self._computed[seats]
        starts = (seats * self.tables.shape[1]).astype(np.int32)
        tables = Tables(self.tables.reshape(-1), starts, self._block_size)
        beyond = pasts + counts - self._known[seats]  # drafts; below 0 where tokens are left for a later step
        places = np.flatnonzero(beyond >= 0)
        last_rows = np.cumsum(counts, dtype=np.int32)[places] - 1
        wanted = _with_those_before(last_rows, beyond[places]) if drafts else last_rows
        drafted = [[]] * (len(places) - len(drafts)) + [draft.tolist() for _, draft in drafts] if drafts else []
        batch = make_batch(tokens, counts, pasts, tables, wanted)
        return Work(sequences, _at(sequences, places), places, drafted, seats, batch)

    def advance(self, work: Work) -> None:
        """It is under way: what it computes, drafts included, counts as computed, and each of `work.wanted` has one
        token more, or has come to its end."""
        seats = work.seats[work.places]
        self._computed[work.seats] = work.batch.lengths
        self._known[seats] += self._known[seats] + 1 < self._most[seats]

    def await_tokens(self, work: Work, sequences: Row[Sequence]) -> None:
        """The last tokens of these of `work.wanted` are being drawn: -1 in a batch stands for the first one's, -2 for
        the next one's."""
        self._last[_seats_of(work, sequences)] = -1 - np.arange(len(sequences), dtype=np.int32)

    def settle(self, work: Work, sequences: Row[Sequence], tokens: Row[Row[int]]) -> None:
        """These of `work.wanted` have been given their tokens. What follows the last draft that was right counts for
        nothing: the next step writes over it."""
        seats = _seats_of(work, sequences)
        if work.drafts:
            more = np.array([max(0, len(given) - 1) for given in tokens], np.int32)
            self._known[seats] += more
            self._computed[seats] += more - np.array([len(draft) for draft in work.drafts], np.int32)
        self._last[seats] = [given[-1] if given else 0 for given in tokens]

    def rewind(self, sequence: Sequence) -> None:
        """What is under way for it counts for nothing: it goes on with the last token that it has."""
        seat = sequence.seat
        self._known[seat] = sequence.length
        self._computed[seat] = sequence.length - 1
        self._last[seat] = sequence.buffer[sequence.length - 1]

    def filled(self, work: Work) -> Iterator[tuple[Sequence, int, list[int]]]:
        """The sequences that have filled blocks in this step: the first of these, and their numbers. Where one comes
        before them its number is there, too."""
        size, batch = self._block_size, work.batch
        first, end = batch.pasts // size, self._computed[work.seats] // size
        rows = np.flatnonzero(end > first)
        if not len(rows):
            return
        starts = batch.table_starts[rows]
        parts = zip(rows.tolist(), first[rows].tolist(), starts.tolist(), (starts + end[rows]).tolist(), strict=True)
        for row, index, start, stop in parts:
            yield work.sequences[row], index, batch.tables[start + max(0, index - 1) : stop].tolist()

    def replace_block(self, sequence: Sequence, index: int, block: int) -> None:
        """Another block with the same content."""
        self.tables[sequence.seat, index] = block

    def _next(self, sequence: Sequence, tokens: int) -> Ints:
        computed = self._computed[sequence.seat]
        return sequence.buffer[computed : computed + tokens]


def _with_those_before(rows: Ints, more: Ints) -> Ints:
    """Each row, after as many before it as are asked for."""
    counts = more + 1
    ends = np.cumsum(counts, dtype=np.int32)
    return np.repeat(rows + 1 - ends, counts) + np.arange(ends[-1], dtype=np.int32)


def _seats_of(work: Work, sequences: Row[Sequence]) -> Places:
    """Of these of `work.wanted`, which are mostly all."""
    if len(sequences) == len(work.wanted):
        return work.seats[work.places]
    return np.fromiter((each.seat for each in sequences), np.intp, len(sequences))


def _at(sequences: list[Sequence], places: Places | Ints) -> list[Sequence]:
    """Those at these places, in a list of its own."""
    return sequences.copy() if len(places) == len(sequences) else [sequences[place] for place in places.tolist()]
