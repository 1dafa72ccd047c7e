"""What runs in the next step: a pure decision over a snapshot.

Owns: the policy. No I/O, no clock, no torch, and nothing is changed here: engine.engine carries the plan out.

Continuous batching with chunked prefill: sequences that decode come first, one token each; what is left of the step's
token budget goes to prompts, in the order of arrival, cut where the budget ends. Blocks are given on demand. When they
run out, the youngest running sequence gives its blocks back and is computed again later. A waiting sequence is admitted
when the blocks of its whole prompt are free, in the order of turns (cortex_neuron.protocol.priority): nobody is passed
over because those behind need fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence as the scheduler sees it: `known` tokens, of which `computed` are in `blocks` blocks of the cache."""

    id: int
    known: int
    computed: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Limits:
    step_tokens: int
    sequences: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute the next `tokens` tokens of a sequence, which needs `new_blocks` more blocks for that."""

    id: int
    tokens: int
    new_blocks: int


@dataclass(frozen=True, slots=True)
class Plan:
    """First take the blocks of the preempted, then run the chunks. Chunks of waiting sequences admit them."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[int, ...]


def plan_step(running: Sequence[Candidate], waiting: Sequence[Candidate], free_blocks: int, limits: Limits) -> Plan:
    """`running` is ordered by admission, oldest first, and `waiting` by turn, next first."""
    draft = _Draft(list(running), free_blocks, limits)
    for one in [c for c in running if c.known - c.computed == 1]:
        draft.schedule(one)
    for one in [c for c in running if c.known - c.computed > 1]:
        draft.schedule(one)
    if not draft.preempted:
        draft.admit(waiting)
    return Plan(tuple(draft.chunks), tuple(draft.preempted))


class _Draft:
    """A plan in the making."""

    def __init__(self, alive: list[Candidate], free_blocks: int, limits: Limits) -> None:
        self.alive = alive
        self.free = free_blocks
        self.limits = limits
        self.budget = limits.step_tokens
        self.chunks: list[Chunk] = []
        self.preempted: list[int] = []

    def schedule(self, one: Candidate) -> None:
        """Give a running sequence as many of its tokens as budget and blocks allow, at the cost of younger ones."""
        while one in self.alive and self.budget > 0:
            tokens = min(one.known - one.computed, self.budget, self._room(one))
            if tokens > 0:
                self._take(one, tokens)
                return
            self._preempt_youngest()

    def admit(self, waiting: Sequence[Candidate]) -> None:
        """Budget is left only when every running sequence has all it needs: what is free now, nobody else waits for."""
        for one in waiting:
            full = len(self.alive) >= self.limits.sequences
            if full or self.budget <= 0 or self._blocks(one.known) > self.free:
                return
            self.alive.append(one)
            self._take(one, min(one.known, self.budget))

    def _take(self, one: Candidate, tokens: int) -> None:
        new_blocks = max(0, self._blocks(one.computed + tokens) - one.blocks)
        self.chunks.append(Chunk(one.id, tokens, new_blocks))
        self.free -= new_blocks
        self.budget -= tokens

    def _preempt_youngest(self) -> None:
        victim = self.alive.pop()
        self.preempted.append(victim.id)
        self.free += victim.blocks
        for chunk in [c for c in self.chunks if c.id == victim.id]:
            # It was given a token before an older prompt was found to lack blocks.
            self.chunks.remove(chunk)
            self.free += chunk.new_blocks
            self.budget += chunk.tokens

    def _room(self, one: Candidate) -> int:
        return (one.blocks + self.free) * self.limits.block_size - one.computed

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)
