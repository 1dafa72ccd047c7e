"""Explanations and decisions as tables for people.

Owns: words and columns. Does not own: how they are shown (tables.py). Called by: commands.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from cortex_contracts.wire.fleet import Considered, Explanation
from cortex_status.operate.decision_log import Row
from cortex_status.tables import UNKNOWN, line, table


def explanation(found: Explanation) -> Iterator[RenderableType]:
    """The decision and its reason, then every neuron that was considered."""
    where = f" on {found.neuron}" if found.neuron else ""
    devices = f", devices {_numbers(found.devices)}" if found.devices else ""
    evict = f", evicting {', '.join(found.evict)}" if found.evict else ""
    yield line(f"{found.model}: {found.decision}{where}{devices}{evict}")
    yield line(found.reason)
    if (
        considered := table("", "NEURON VERDICT DEVICES EVICTS REASON", map(_considered, found.considered))
    ) is not None:
        yield considered


def decisions(rows: Sequence[Row], several: bool) -> RenderableType | None:
    """One line each; with the gateway's name where there are several. None where there is nothing to show."""
    columns = "TIME MODEL DECISION NEURON EVICTS REQUEST REASON"
    return table("", f"GATEWAY {columns}" if several else columns, (_decision(row, several) for row in rows))


def _considered(neuron: Considered) -> Sequence[str]:
    evict = ", ".join(neuron.evict) or UNKNOWN
    return neuron.neuron, neuron.verdict, _numbers(neuron.devices), evict, neuron.reason


def _decision(row: Row, several: bool) -> Sequence[str]:
    cells = (
        row.decided_at[:23].replace("T", " "),
        row.model,
        row.decision,
        row.neuron or UNKNOWN,
        ", ".join(row.evict) or UNKNOWN,
        row.request_id or UNKNOWN,
        row.reason,
    )
    return (row.gateway, *cells) if several else cells


def _numbers(numbers: Sequence[int] | None) -> str:
    return ",".join(map(str, numbers)) if numbers else UNKNOWN
