"""The JSON Schema Test Suite, draft 2020-12: schemas, and JSON that keeps to them or does not.

It is part of the source distribution of jsonschema, of the version in constraints.txt; make test fetches that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SUITE = ROOT / "build/json-schema-suite"


@dataclass(frozen=True, eq=False)
class Case:
    name: str  # file / group / case
    value: Any
    is_valid: bool


@dataclass(frozen=True, eq=False)
class Group:
    name: str
    schema: Any
    cases: tuple[Case, ...]


def groups() -> Iterator[Group]:
    """All of them, those of optional behaviour too."""
    folder = SUITE / "tests/draft2020-12"
    if not folder.is_dir():
        pytest.fail(f"{SUITE.relative_to(ROOT)} is not there: run `make json-schema-suite`")
    for file in sorted(folder.rglob("*.json")):
        for each in json.loads(file.read_text()):
            name = f"{file.relative_to(folder)} / {each['description']}"
            cases = (Case(f"{name} / {case['description']}", case["data"], case["valid"]) for case in each["tests"])
            yield Group(name, each["schema"], tuple(cases))
