"""This gateway's own requests under way, by (neuron, model).

Owns: the counts, and on which neurons a model has come into use or gone out of it since somebody last asked. Called by:
exchange.py (seats), routing (reads).
"""

from __future__ import annotations

from collections import Counter

Seat = tuple[str, str]


class Outstanding(Counter[Seat]):
    """The counts. `stirred` names neurons whose models have changed between used and unused; at most all neurons."""

    def __init__(self, counts: dict[Seat, int] | None = None) -> None:
        super().__init__(counts)
        self.stirred: set[str] = set()

    def take(self, seat: Seat) -> None:
        """One request more."""
        before = self.get(seat, 0)
        self[seat] = before + 1
        if not before:
            self.stirred.add(seat[0])

    def give_back(self, seat: Seat) -> None:
        """One request less."""
        left = self[seat] - 1
        if left > 0:
            self[seat] = left
        else:
            del self[seat]
            self.stirred.add(seat[0])
