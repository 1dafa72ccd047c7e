"""When a model whose group died is started again, and when it is given up (case T6). Pure. Called by: residency."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW_S = 600.0
STARTS_IN_WINDOW = 4
_BACK_OFF_S = (0.0, 1.0, 5.0, 15.0)
_FETCH_BACK_OFF_S = (2.0, 5.0, 15.0, 30.0, 60.0)


def next_start_s(deaths: Sequence[float], now: float) -> float | None:
    """Seconds until the next start, None to give up. `deaths` are the times of its deaths, the last included."""
    recent = sum(1 for death in deaths if now - death < WINDOW_S)
    return _BACK_OFF_S[recent - 1] if recent <= STARTS_IN_WINDOW else None


def next_fetch_s(attempts: int) -> float:
    """Seconds until a source that could not be reached is tried again; never given up (case L3)."""
    return _FETCH_BACK_OFF_S[min(attempts, len(_FETCH_BACK_OFF_S)) - 1]
