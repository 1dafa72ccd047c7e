"""Which neuron has served which beginning of a prompt, so that a conversation finds its cache again (case L13).

Owns: what a prompt's beginnings are (chained hashes of its raw bytes) and a bounded memory of who served them last. A
tokeniser would know more, at a thousand times the price. Pure but for the memory's own state. Called by:
forwarding/attempts.py (hashes, remembers), decide.py (looks up).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Where beginnings end, in bytes. The finer ones tell conversations apart that share a system prompt; prompts that
# agree for 64 KB are taken to agree.
_ENDS = (*range(256, 4096, 256), *range(4096, 65536 + 1, 1024))
_LONGEST = _ENDS[-1]
_KEPT = 1 << 15  # beginnings of each generation: two of them take up to 10 MB


class Served(NamedTuple):
    """Who served a beginning: `loads` is how often the model had been loaded there, and with a new load it is lost."""

    neuron: str
    loads: int


def beginnings(model_id: str, parts: Sequence[bytes]) -> list[int]:
    """The prompt's beginnings, shortest first, each by a hash of all bytes up to there. `parts` in the order of a
    chat template: tools, system, messages. What follows the last full block is nobody's prefix."""
    prompt = b"".join(parts)[:_LONGEST]
    so_far, start = hash(model_id), 0
    found = []
    for end in _ENDS:
        if end > len(prompt):
            break
        so_far = hash((so_far, prompt[start:end]))
        found.append(so_far)
        start = end
    return found


class PrefixMemory:
    """The last neuron that served each beginning, as two generations: what was not used for one is forgotten."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._young: dict[int, Served] = {}
        self._old: dict[int, Served] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def served(self, beginning: int) -> Served | None:
        """Who served it last."""
        return self._young.get(beginning) or self._old.get(beginning)

    def remember(self, prompt: Sequence[int], served: Served) -> None:
        """All beginnings of one prompt were served there."""
        self._young.update(dict.fromkeys(prompt, served))
        if len(self._young) >= self._kept:
            self._old, self._young = self._young, {}
