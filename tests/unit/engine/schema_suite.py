"""The JSON Schema Test Suite, drafts 7 and 2020-12: schemas, and JSON that keeps to them or does not.

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
# What most tools' schemas are of, and how each says so.
DRAFTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


@dataclass(frozen=True, eq=False)
class Case:
    name: str  # draft/file / group / case
    value: Any
    is_valid: bool


@dataclass(frozen=True, eq=False)
class Group:
    name: str
    schema: Any
    cases: tuple[Case, ...]


def groups() -> Iterator[Group]:
    """All of them, those of optional behaviour too."""
    for draft in DRAFTS:
        folder = SUITE / "tests" / draft
        if not folder.is_dir():
            pytest.fail(f"{SUITE.relative_to(ROOT)} is not there: run `make json-schema-suite`")
        for file in sorted(folder.rglob("*.json")):
            for each in json.loads(file.read_text()):
                yield _group(draft, f"{draft}/{file.relative_to(folder)} / {each['description']}", each)


def _group(draft: str, name: str, told: dict[str, Any]) -> Group:
    cases = (Case(f"{name} / {each['description']}", each["data"], each["valid"]) for each in told["tests"])
    schema = told["schema"]
    if isinstance(schema, dict):
        schema = {"$schema": DRAFTS[draft], **schema}
    return Group(name, schema, tuple(cases))
