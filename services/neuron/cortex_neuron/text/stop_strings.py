"""Stop strings in text that comes in pieces.

Owns: holding back text that may be the beginning of a stop string. Called by: choice.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Looks for the first of `stops` in a stream of text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that is safe to show. Once `found` is set, it was the last: all before the stop string."""
        if not self._stops:
            return text
        self._held += text
        hits = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if hits:
            place, self.found = min(hits)
            return self._release(place)
        return self._release(len(self._held) - self._undecided())

    def end(self) -> str:
        """What was held and turned out not to be a stop string."""
        return self._release(len(self._held))

    def _undecided(self) -> int:
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(stop.startswith(self._held[-size:]) for stop in self._stops)), 0)

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], "" if self.found else self._held[size:]
        return text
