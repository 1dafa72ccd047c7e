"""`cortex inventory check`: everything that is wrong with an inventory, before anything is touched.

Owns: the printing and the exit codes. Does not own: what is wrong (cortex_contracts.inventory.problems).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import BaseModel

from cortex_contracts.inventory.fleet import Fleet
from cortex_contracts.inventory.problems import InventoryInvalid
from cortex_status.inventory import InventoryUnreadable, fleet, read


class Report(BaseModel):
    """What --json prints; without problems the fleet is there."""

    problems: list[str]
    fleet: Fleet | None


def run(sources: Sequence[str], vault_password_files: Sequence[str], *, as_json: bool) -> int:
    """Check and print. Returns 0 when nothing is wrong, 1 with problems, 2 when it cannot be read."""
    try:
        report = Report(problems=[], fleet=fleet(read(sources, vault_password_files)))
    except InventoryInvalid as invalid:
        report = Report(problems=invalid.problems, fleet=None)
    except InventoryUnreadable as unreadable:
        print(unreadable, file=sys.stderr)
        return 2
    print(report.model_dump_json(indent=2) if as_json else _text(", ".join(sources), report))
    return 1 if report.problems else 0


def _text(name: str, report: Report) -> str:
    if report.fleet is None:
        return "\n".join([*report.problems, f"{name}: {_counted(len(report.problems), 'problem')}"])
    counts = (
        _counted(len(report.fleet.gateways), "gateway"),
        _counted(len(report.fleet.neurons), "neuron"),
        _counted(len(report.fleet.models), "model"),
    )
    return f"{name}: {', '.join(counts)}; nothing is wrong"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
