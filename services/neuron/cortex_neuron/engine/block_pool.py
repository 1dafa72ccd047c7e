"""The blocks of the KV cache by number: who holds them, what is in them, and which go next.

Owns: reference counts, the order of reuse, and the tree of findable blocks. Does not own: who gets a block
(engine.scheduler) or the memory (engine.kv_cache). Called by: engine.engine. No torch here.

A full block whose content has been computed is named by the mark of the block before it and its own token ids. A mark
is given once and never again, so that it stands for the whole text up to there; equal token ids under an equal mark are
equal text, compared in full whenever a name is looked up: nothing rests on a hash being unique.

A block that nobody holds stays findable until it is taken for something else. Those with nothing in them go first, then
those that were given back longest ago; of one text the last block is given back, and so goes, before the first. Who
holds a block holds all before it. So what can be found is always a whole text from its start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

Name = tuple[int, bytes]  # the mark of the block before, and the token ids as int32
START = 0  # the mark before the first block


@dataclass(slots=True)
class Trail:
    """The findable blocks of a text from its start, as far as it was last followed, and their marks then."""

    blocks: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.marks[-1] if self.marks else START


class BlockPool:
    """All blocks of one cache."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        self._names: list[Name | None] = [None] * num_blocks
        self._marks = [START] * num_blocks
        self._found: dict[Name, int] = {}
        self._blank = deque(range(num_blocks))  # free, and not findable
        self._kept: OrderedDict[int, None] = OrderedDict()  # free and findable; next is who was given back first
        self._fresh_marks = count(START + 1)

    @property
    def num_free(self) -> int:
        """Findable ones are free, too: they can be taken at any time."""
        return len(self._blank) + len(self._kept)

    # ---- holding

    def take(self, wanted: int) -> list[int]:
        """So many free blocks for new content. The scheduler has made sure that there are as many."""
        return [self._take() for _ in range(wanted)]

    def hold(self, blocks: Iterable[int]) -> None:
        """Share blocks that were found."""
        for block in blocks:
            if not self._holders[block]:
                del self._kept[block]
            self._holders[block] += 1

    def give_back(self, blocks: Sequence[int]) -> None:
        """One holder's blocks, in the order of its text."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._names[block] is None:
                self._blank.append(block)
            else:
                self._kept[block] = None

    def num_freed_by(self, tables: Iterable[Sequence[int]]) -> int:
        """How many blocks come free when all these holders give back theirs."""
        given = Counter(block for table in tables for block in table)
        return sum(self._holders[block] == times for block, times in given.items())

    def num_idle(self, trail: Trail) -> int:
        """How many blocks of a trail nobody holds: its last ones, for who holds a block holds those before it."""
        held = bisect_left(trail.blocks, True, key=lambda block: not self._holders[block])
        return len(trail.blocks) - held

    # ---- finding

    def follow(self, trail: Trail, piece: Callable[[int], bytes], most: int) -> Trail:
        """Bring a trail up to date: at most `most` blocks; `piece` gives the token ids of the text's blocks.

        What was found before is not looked up again, so that to ask in every step costs next to nothing.
        """
        while trail.blocks and self._marks[trail.blocks[-1]] != trail.marks[-1]:
            trail.blocks.pop()
            trail.marks.pop()
        while len(trail.blocks) < most:
            block = self._found.get((trail.end, piece(len(trail.blocks))))
            if block is None:
                break
            trail.blocks.append(block)
            trail.marks.append(self._marks[block])
        return trail

    def mark(self, block: int) -> int:
        """What the name of the block after it begins with."""
        return self._marks[block]

    def publish(self, block: int, name: Name) -> int:
        """Make a block findable that has been computed. Another that is findable by this name is held in its place."""
        other = self._found.get(name)
        if other is None:
            self._names[block], self._found[name] = name, block
            self._marks[block] = next(self._fresh_marks)
            return block
        self.hold([other])
        self.give_back([block])
        return other

    def forget(self, blocks: Iterable[int]) -> None:
        """What is in them is not to be trusted. Nor is what follows them: it can no longer be found."""
        for block in blocks:
            self._unname(block)
            if block in self._kept:
                del self._kept[block]
                self._blank.append(block)

    # ----

    def _take(self) -> int:
        if self._blank:
            block = self._blank.popleft()
        else:
            block, _ = self._kept.popitem(last=False)
            self._unname(block)
        self._holders[block] = 1
        return block

    def _unname(self, block: int) -> None:
        name = self._names[block]
        if name is not None:
            del self._found[name]
            self._names[block] = None
            self._marks[block] = next(self._fresh_marks)
