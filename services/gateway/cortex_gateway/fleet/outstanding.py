"""This gateway's own requests under way, by (neuron, model).

Owns: the counts, and on which neurons a model has come into use or gone out of it. Called by: exchange.py (seats),
routing (reads).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

Seat = tuple[str, str]


class Outstanding(Counter[Seat]):
    """The counts. `turns` counts how often a model has come into use or gone out of it."""

    def __init__(self, counts: dict[Seat, int] | None = None) -> None:
        super().__init__(counts)
        self.turns = 0
        self._last_turn: dict[str, int] = {}  # by neuron, in the order of turns

    def take(self, seat: Seat) -> None:
        """One request more."""
        before = self.get(seat, 0)
        self[seat] = before + 1
        if not before:
            self._turn(seat[0])

    def give_back(self, seat: Seat) -> None:
        """One request less."""
        left = self[seat] - 1
        if left > 0:
            self[seat] = left
        else:
            del self[seat]
            self._turn(seat[0])

    def turned_since(self, turns: int) -> Iterator[str]:
        """The neurons where that has happened after so many turns."""
        for neuron, turn in reversed(self._last_turn.items()):
            if turn <= turns:
                return
            yield neuron

    def _turn(self, neuron: str) -> None:
        self.turns += 1
        self._last_turn.pop(neuron, None)
        self._last_turn[neuron] = self.turns
