"""What a routing decision costs, by its kind, measured at every one that a simulation takes.

Called by: __main__.py.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from cortex_gateway.forwarding import attempts
from cortex_gateway.routing.decide import decide

Costs = dict[str, list[int]]  # ns, by kind of decision


@contextmanager
def measured() -> Iterator[Costs]:
    """While inside, every decision of every gateway is timed.

    In time of this thread: what else runs on the machine does not count. Collections of garbage, most of which is the
    simulation's, wait until a decision is over.
    """
    costs: Costs = defaultdict(list)

    def timed(*arguments: Any, **named: Any) -> Any:
        gc.disable()
        began = time.thread_time_ns()
        decision = decide(*arguments, **named)
        costs[type(decision).__name__].append(time.thread_time_ns() - began)
        gc.enable()
        return decision

    with mock.patch.object(attempts, "decide", timed):
        yield costs


def summary(costs: list[int]) -> dict[str, float]:
    """How many there are, and their mean and percentiles in µs."""
    ordered = sorted(costs)
    found = {f"p{percent}": ordered[len(ordered) * percent // 100] / 1000 for percent in (50, 99)}
    return {"count": len(ordered), "mean": sum(ordered) / len(ordered) / 1000, **found}
