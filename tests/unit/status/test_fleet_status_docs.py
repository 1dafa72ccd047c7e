"""docs/status.md, by which scripts are written, against the code."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from cortex_status.fleet_status.document import EXIT_CODES, Document, Verdict
from cortex_status.fleet_status.findings import Finding, FindingKind
from cortex_status.fleet_status.observed import GatewaySeen, NeuronSeen, Observed, Problem, Shown, Silence

TEXT = (Path(__file__).parents[3] / "docs" / "status.md").read_text()


@pytest.mark.parametrize(("section", "names"), [("Findings", FindingKind), ("The document", Silence)])
def test_every_name_has_its_row_and_every_row_its_name(section: str, names: type[StrEnum]) -> None:
    """A kind that is new, renamed or gone shows in the table."""
    (part,) = [part for part in TEXT.split("\n## ") if part.startswith(section)]
    rows = re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE)
    assert set(rows) - set(Document.model_fields) == set(names)


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_stands_beside_its_exit_code(verdict: Verdict) -> None:
    """The code that a script tests and the word in the document are one."""
    assert f"| {EXIT_CODES[verdict]} | `{verdict}` |" in TEXT


@pytest.mark.parametrize("shape", [Document, Observed, GatewaySeen, NeuronSeen, Problem, Finding])
def test_every_field_of_the_document_is_explained(shape: type[Shown]) -> None:
    """Nothing is printed that nobody can look up."""
    assert [name for name in shape.model_fields if f"`{name}`" not in TEXT] == []
