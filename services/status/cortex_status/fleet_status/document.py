"""The one document that `cortex-status --json` prints, and the verdict it comes to.

Owns: the document's shape (docs/status.md explains it; `format` rises when a field goes or changes its meaning) and
the exit codes. Does not own: what was seen (observed) and what is wrong with it (drift).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from cortex_contracts.inventory.fleet import Fleet
from cortex_status.fleet_status import drift
from cortex_status.fleet_status.findings import Finding
from cortex_status.fleet_status.observed import Observed, Shown


class Verdict(StrEnum):
    """What it comes to."""

    WELL = "well"
    UNWELL = "unwell"  # something drifted or is unhealthy
    INVENTORY_UNUSABLE = "inventory_unusable"
    NOTHING_ANSWERS = "nothing_answers"


EXIT_CODES = {Verdict.WELL: 0, Verdict.UNWELL: 1, Verdict.INVENTORY_UNUSABLE: 2, Verdict.NOTHING_ANSWERS: 3}


class Document(Shown):
    """A fleet at one moment, beside what its inventory declares."""

    format: Literal[1] = 1
    asked_at: datetime = Field(description="When the hosts were asked, UTC")
    verdict: Verdict
    inventory_problems: list[str] = Field(description="Why the inventory cannot be used; then nobody was asked")
    findings: list[Finding] = Field(description="What is not as declared, or not well")
    # Not in its repr: asyncio.run makes one of what it returns, and throws it away.
    observed: Observed = Field(repr=False, description="What each declared host said")


def document(fleet: Fleet, observed: Observed, asked_at: datetime) -> Document:
    """What was seen, compared with what is declared."""
    findings = drift.find(fleet, observed)
    return Document(
        asked_at=asked_at,
        verdict=_verdict(observed, findings),
        inventory_problems=[],
        findings=findings,
        observed=observed,
    )


def unusable(problems: list[str], asked_at: datetime) -> Document:
    """The document of an inventory that cannot be used."""
    return Document(
        asked_at=asked_at,
        verdict=Verdict.INVENTORY_UNUSABLE,
        inventory_problems=problems,
        findings=[],
        observed=Observed(gateways=[], neurons=[]),
    )


def _verdict(observed: Observed, findings: list[Finding]) -> Verdict:
    if not any(seen.answers for seen in observed.hosts):
        return Verdict.NOTHING_ANSWERS
    return Verdict.UNWELL if findings else Verdict.WELL
