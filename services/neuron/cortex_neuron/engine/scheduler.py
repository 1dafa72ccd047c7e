"""What runs in the next step: a pure decision over a snapshot.

Owns: the policy. No I/O, no clock, no torch, and nothing is changed here: engine.engine carries the plan out.

Continuous batching with chunked prefill. Sequences that decode come first, one token each; what is left of the step's
token budget goes to prompts (`share`); steps that are small even so may have drafts. Blocks are given on demand. When
they run out, the youngest running sequence gives its blocks back and is computed again later. A waiting sequence is
admitted when the blocks of its whole prompt are free beside what the prompts before it still need, in the order of
turns (cortex_neuron.protocol.priority): nobody is passed over because those behind need fewer. One that waits is held
back, and passed by others, only while a running sequence computes the very block it would begin with: in the next step
it finds that in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cortex_neuron.layers.batch import Ints, Places


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """Those that run, oldest admission first: of `known` tokens `computed` are in `blocks` blocks of the cache."""

    known: Ints
    computed: Ints
    blocks: Ints

    def __len__(self) -> int:
        return len(self.known)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """One that waits: of `known` tokens `cached` are in the cache, in blocks of which `idle` are nobody's."""

    known: int
    cached: int = 0
    idle: int = 0
    begins_with: Hashable = None  # the name of the block it would compute first; None: it is not to be held back


@dataclass(frozen=True, slots=True)
class Supply:
    """Blocks that are free, and how many come free when the youngest so many running sequences give theirs back."""

    free: int
    freed_by: Callable[[int], int]


# However many decode, prompts get at least this part of the step's tokens.
PROMPTS_PART = 4


def most_step_tokens(step_tokens: int, max_sequences: int) -> int:
    """Every running sequence can decode in each step: with a smaller budget the youngest would starve."""
    return max(step_tokens, max_sequences + step_tokens // PROMPTS_PART)


@dataclass(frozen=True, slots=True)
class Limits:
    step_tokens: int
    sequences: int
    block_size: int
    draft_rows: int = 0  # up to so many rows a step may have drafts

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute the next `tokens` tokens of the sequence at `place`, which needs `new_blocks` more blocks for that."""

    place: int
    tokens: int
    new_blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """First take the blocks of the preempted and hold what the admitted have in the cache, then give new blocks.

    Places are those in the snapshot: `decode` and `chunks` among the running, `admitted` among the waiting.
    """

    preempted: int  # the youngest so many
    decode: Places  # compute their one token
    growing: Places  # of these, those that need one more block for it
    chunks: tuple[Chunk, ...]
    admitted: tuple[Chunk, ...]  # a seat; of 0 tokens where the budget is spent
    drafts: int  # tokens that may be drafted for those that decode


def plan_step(
    running: Running, waiting: Iterable[Newcomer], computing: Set[Hashable], supply: Supply, limits: Limits
) -> Plan:
    """`waiting` is ordered by turn, next first; `computing` names the blocks that running prompts compute next."""
    preempted, free = 0, supply.free
    while (outline := _outline(running, len(running) - preempted, free, limits)) is None:
        preempted += 1
        free = supply.free + supply.freed_by(preempted)
    admitted = [] if preempted or not outline.budget else _admit(outline, len(running), waiting, computing, limits)
    wanting = [*outline.prompts, *admitted]
    tokens = share(outline.budget, [each.left for each in wanting])
    chunks = _cut(wanting, tokens, outline.free, limits)
    old = len(outline.prompts)
    given = tuple(chunk for chunk in chunks[:old] if chunk.tokens)
    rows = len(outline.decode) + sum(chunk.tokens for chunk in chunks)
    drafts = max(0, min(limits.draft_rows, limits.step_tokens) - rows)
    return Plan(preempted, outline.decode, outline.growing, given, tuple(chunks[old:]), drafts)


def share(budget: int, left: Sequence[int]) -> list[int]:
    """How a step's tokens are shared among prompts, oldest first, that have so many left.

    Half is the oldest's, so that every prompt comes to its end; the rest goes to those with the fewest tokens left, so
    that a short one does not wait for all the chunks of a long one. Equal prompts are thus served one after the other.
    """
    tokens = [0] * len(left)
    if left:
        tokens[0] = min(left[0], -(-budget // 2))
    rest = budget - sum(tokens)
    for index in sorted(range(len(left)), key=left.__getitem__):
        more = min(left[index] - tokens[index], rest)
        tokens[index] += more
        rest -= more
    return tokens


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One that has more than a token to compute."""

    place: int
    known: int
    computed: int
    blocks: int

    @property
    def left(self) -> int:
        return self.known - self.computed


@dataclass(frozen=True, slots=True, eq=False)
class _Outline:
    """What the running get, but for the tokens of prompts, and what is left after that."""

    decode: Places
    growing: Places
    prompts: list[_Prompt]
    free: int
    budget: int


def _outline(running: Running, alive: int, free: int, limits: Limits) -> _Outline | None:
    """None: the blocks do not suffice for the oldest `alive`."""
    left = running.known[:alive] - running.computed[:alive]
    decode = np.flatnonzero(left == 1)[: limits.step_tokens]
    full = running.computed[decode] == running.blocks[decode] * limits.block_size
    growing = decode[full]
    free -= len(growing)
    prompts = [_prompt(running, place) for place in np.flatnonzero(left > 1).tolist()] if len(decode) < alive else []
    if free < 0 or (prompts and _stuck(prompts[0], alive, free, limits)):
        return None
    return _Outline(decode, growing, prompts, free, limits.step_tokens - len(decode))


def _stuck(oldest: _Prompt, alive: int, free: int, limits: Limits) -> bool:
    """The oldest prompt cannot go on, and there is a younger sequence that could give way to it."""
    return not free and oldest.computed == oldest.blocks * limits.block_size and oldest.place < alive - 1


def _prompt(running: Running, place: int) -> _Prompt:
    return _Prompt(place, int(running.known[place]), int(running.computed[place]), int(running.blocks[place]))


def _admit(
    outline: _Outline, num_running: int, waiting: Iterable[Newcomer], computing: Set[Hashable], limits: Limits
) -> list[_Prompt]:
    """Those whose whole prompts fit beside the prompts before them. As many are looked at as there are seats.

    So where one is admitted, no prompt of this step is short of blocks.
    """
    spare = outline.free - sum(limits.blocks(each.known) - each.blocks for each in outline.prompts)
    admitted: list[_Prompt] = []
    busy = set(computing)
    for place, one in enumerate(islice(waiting, limits.sequences)):
        if one.begins_with is not None and one.begins_with in busy:
            continue
        cached = one.cached // limits.block_size
        spare -= limits.blocks(one.known) - cached + one.idle
        if spare < 0 or num_running + len(admitted) >= limits.sequences:
            break
        admitted.append(_Prompt(place, one.known, one.cached, cached))
        busy.add(one.begins_with)
    return admitted


def _cut(prompts: Sequence[_Prompt], tokens: Sequence[int], free: int, limits: Limits) -> list[Chunk]:
    """Chunks of so many tokens, or as many as blocks are left for; the oldest takes first."""
    chunks: list[Chunk] = []
    for one, wanted in zip(prompts, tokens, strict=True):
        given = min(wanted, (one.blocks + free) * limits.block_size - one.computed)
        new_blocks = max(0, limits.blocks(one.computed + given) - one.blocks)
        free -= new_blocks
        chunks.append(Chunk(one.place, given, new_blocks))
    return chunks
