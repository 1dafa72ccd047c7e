"""This gateway's own requests under way, by (neuron, model).

Owns: the counts, on which neurons a model has come into use or gone out of it, and what a report may count of ours.
Called by: exchange.py (seats), poller.py (reports), routing (reads).
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping

Seat = tuple[str, str]


class Outstanding(Counter[Seat]):
    """The counts. `turns` counts how often a model has come into use or gone out of it."""

    def __init__(self, counts: dict[Seat, int] | None = None) -> None:
        super().__init__(counts)
        self.turns = 0
        self._last_turn: dict[str, int] = {}  # by neuron, in the order of turns
        self._ended: dict[str, dict[Seat, int]] = {}  # while a neuron is being asked: what was given back there

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
        if (ended := self._ended.get(seat[0])) is not None:
            ended[seat] = ended.get(seat, 0) + 1

    def asked(self, neuron: str) -> None:
        """A report is asked of a neuron: until it comes, requests may end that it will count."""
        self._ended[neuron] = {}

    def in_report(self, neuron: str) -> Mapping[Seat, int]:
        """As many of ours as the report that has come can count: those under way, and those that ended meanwhile.

        Taken for somebody else's, one that has just ended would hold its model in memory until the next report.
        """
        ended = self._ended.pop(neuron, None)
        return ChainMap({seat: self[seat] + count for seat, count in ended.items()}, self) if ended else self

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
