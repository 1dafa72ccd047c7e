"""When each rank of a group was last heard, and how far it has come: who is it that the others wait for?

Owns: the times and counts. Pure: the caller has the clock. Called by: group.
"""

from __future__ import annotations

from collections.abc import Iterable

from cortex_neuron.protocol import frames


class Pulses:
    """By rank. Times are those of the caller's clock, in seconds."""

    def __init__(self) -> None:
        self._heard_at: dict[int, float] = {}
        self._entered: dict[int, int] = {}  # collectives, as of the last pong

    def begin(self, ranks: Iterable[int], now: float) -> None:
        """Watch these from now on."""
        self._heard_at = dict.fromkeys(ranks, now)

    def heard(self, rank: int, now: float, frame: frames.FromRank) -> None:
        """A frame of any kind is a sign of life."""
        if rank in self._heard_at:
            self._heard_at[rank] = now
        if isinstance(frame, frames.Pong):
            self._entered[rank] = frame.entered

    def shift(self, by_s: float, now: float) -> None:
        """The daemon stood still for so long, and heard nobody."""
        self._heard_at = {rank: min(now, at + by_s) for rank, at in self._heard_at.items()}

    def silent(self, since: float) -> int | None:
        """The rank that has been silent for longest, where that is since before `since`."""
        rank = min(self._heard_at, key=self._heard_at.__getitem__, default=None)
        return rank if rank is not None and self._heard_at[rank] < since else None

    def late(self, since: float) -> int:
        """The rank that a step waits for: one that answers no ping, else the one with fewest collectives begun."""
        silent = self.silent(since)
        return silent if silent is not None else min(self._heard_at, key=lambda rank: self._entered.get(rank, 0))
