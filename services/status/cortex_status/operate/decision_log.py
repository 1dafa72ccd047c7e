"""The last decisions of every gateway, as one list.

Owns: merging what several gateways say, and which rows are new. Does not own: how rows look (rendering.py).
Called by: commands.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from cortex_contracts.wire.fleet import DecisionRow, Decisions
from cortex_status.operate.asking import Asking
from cortex_status.operate.failures import Failure, Unanswered
from cortex_status.operate.targets import Target

_ASK_EVERY_S = 1.0
_AT_ONCE = 1000  # rows of a gateway between two questions; what is more is left out


class Row(DecisionRow):
    """A decision, and the gateway that took it."""

    gateway: str


async def last(
    asking: Asking, targets: Sequence[Target], limit: int, model: str | None, warn: Callable[[str], None]
) -> list[Row]:
    """The last `limit` of all gateways together, oldest first. `warn` is told of gateways that do not answer.

    Raises Failure where none does.
    """
    query = {"limit": str(limit)} | ({"model": model} if model is not None else {})
    answers = await asyncio.gather(
        *(asking.get(target, "/fleet/decisions", Decisions, query) for target in targets), return_exceptions=True
    )
    rows: list[Row] = []
    failures: list[Failure] = []
    for target, answer in zip(targets, answers, strict=True):
        if isinstance(answer, Decisions):
            rows += [Row(gateway=target.name, **dict(row)) for row in answer.data]
        elif isinstance(answer, Failure):
            failures.append(answer)
        else:
            raise answer
    if len(failures) == len(targets):
        others = [each for each in failures if not isinstance(each, Unanswered)]
        raise others[0] if others else Unanswered("\n".join(map(str, failures)))
    for failure in failures:
        warn(str(failure))
    return sorted(rows, key=lambda row: row.decided_at)[-limit:]


async def following(
    asking: Asking, targets: Sequence[Target], limit: int, model: str | None, warn: Callable[[str], None]
) -> AsyncIterator[list[Row]]:
    """The last `limit`, then what is new, for ever. A gateway that stops answering is warned of once, and asked on."""
    warned: set[str] = set()

    def warn_once(problem: str) -> None:
        if problem not in warned:
            warned.add(problem)
            warn(problem)

    rows = await last(asking, targets, limit, model, warn_once)
    newest: dict[str, str] = {}  # by gateway: each has a clock of its own
    while True:
        new = [row for row in rows if row.decided_at > newest.get(row.gateway, "")]
        newest |= {row.gateway: row.decided_at for row in new}
        yield new
        await asyncio.sleep(_ASK_EVERY_S)
        try:
            rows = await last(asking, targets, _AT_ONCE, model, warn_once)
        except Unanswered as silence:
            warn_once(str(silence))
