"""Whose turn it is among the requests that wait for a seat: by class, then by arrival. Pure.

Called by: the engine, which keeps its queue in this order, and the daemon's group, which tells from it who still waits.
"""

from __future__ import annotations

from typing import get_args

from cortex_contracts.inventory.clients import PriorityClass

CLASSES: tuple[PriorityClass, ...] = get_args(PriorityClass)
HEAD_START_S: dict[PriorityClass, float] = {"high": 30.0, "normal": 0.0, "low": -30.0}


def turn(priority: PriorityClass, arrived_s: float) -> float:
    """A request's place in the queue, on the clock of `arrived_s`; the least is next.

    A class is a head start and nothing more. So nobody starves: a low request is overtaken by those normal ones alone
    that come within 30 s after it, and by high ones that come within 60 s. Who has waited that long is served next.
    """
    return arrived_s - HEAD_START_S[priority]
