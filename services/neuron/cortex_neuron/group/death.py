"""How an engine group ended that should not have: which rank, which kind, in which words."""

from __future__ import annotations

import signal
from dataclasses import dataclass

RANK_DIED = "rank_died"


@dataclass(frozen=True, slots=True)
class Death:
    """Kinds are those of docs/protocol.md."""

    kind: str
    message: str
    rank: int | None = 0  # none where what died has no ranks that we know of


class GroupFailed(Exception):
    """A group could not be started, or died while it was loading."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.message)
        self.death = death


def of_exit(rank: int, exit_code: int) -> Death:
    """A process that ended without being asked to."""
    return Death(RANK_DIED, f"rank {rank} {words_of_exit(exit_code)}", rank)


def words_of_exit(exit_code: int) -> str:
    """How a process ended."""
    if exit_code < 0:
        return f"was killed by signal {-exit_code} ({_signal_name(-exit_code)})"
    return f"exited with code {exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
