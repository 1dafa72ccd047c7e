"""What came of each model, for people and, as one document, for programs.

Owns: the shapes and the words. Called by: fetch.command.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class State(StrEnum):
    """Where a model's files are."""

    PRESENT = "present"  # they were here before
    FETCHED = "fetched"
    MISSING = "missing"  # and were not to be fetched
    FAILED = "failed"


class Outcome(BaseModel):
    """One model. `path` is where its files are; `reason` says why they are not here."""

    model_config = ConfigDict(frozen=True)

    model: str
    source: str
    local: bool
    state: State
    path: str | None = None
    reason: str | None = None

    @property
    def here(self) -> bool:
        return self.path is not None

    def line(self) -> str:
        """On one line, however many a library's words have."""
        where = f"{self.path} (a local source)" if self.local and self.path else self.path or self.reason or ""
        return f"{self.model}: {self.state}: {' '.join(where.split())}"


class Report(BaseModel):
    """The document of `--json`, in the order that was asked for."""

    models: list[Outcome]

    @property
    def complete(self) -> bool:
        return all(outcome.here for outcome in self.models)

    def summary(self) -> str:
        """The last line."""
        absent = sum(not outcome.here for outcome in self.models)
        if absent:
            return f"{absent} of {len(self.models)} models are not here"
        return f"all of {len(self.models)} models are here"
