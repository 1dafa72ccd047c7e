"""The fault matrix, a test a case: run once, beside each other, judged one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import matrix
import pytest
from matrix import Case, Result
from tiny_model import write_tiny_model

PAGE = Path(__file__).parents[2] / "docs/protocol.md"
ALL = matrix.cases()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Result]:
    """Of all cases."""
    model = write_tiny_model(tmp_path_factory.mktemp("faults"))
    found = asyncio.run(matrix.survive(ALL, model))
    for words, value in matrix.worst(found):
        print(f"{words}: {value}")
    return {each.case: each for each in found}


@pytest.mark.timeout(1200)  # the first one runs them all
@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_fault_is_told_and_survived(case: Case, results: dict[Case, Result]) -> None:
    """The client gets a clear error or is served, the daemon answers throughout, the group is gone within its deadline,
    the next load succeeds, nothing is left behind; what is told stands in docs/protocol.md (cases T1, T3, T4, T7)."""
    result = results[case]
    assert not result.problems
    documented = matrix.told(PAGE.read_text())[case.phase, case.action, bool(case.rank)]
    assert result.told in documented or matrix.is_told_by_another(result)
