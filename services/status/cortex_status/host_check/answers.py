"""What a host has answered, or why it has not.

Owns: the shape of what ansible/files/probe.py prints, and reading it out of Ansible's result of a task. Called by: the
filters of ansible/plugins; judgement.py has the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError


class Taken(BaseModel):
    """Who listens on a port; `ours` is none where the probe may not see whose it is."""

    model_config = ConfigDict(frozen=True)

    by: str
    ours: bool | None


class Contact(BaseModel):
    """What came of a gateway's connection to a neuron; `reason` has the system's words."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["open", "refused", "unresolved", "failed"]
    reason: str = ""


class Gpus(BaseModel):
    """GPUs on the bus, and what the driver says: how many it has, or why it does not answer."""

    model_config = ConfigDict(frozen=True)

    on_bus: int
    driven: int | None
    reason: str = ""


class Answer(BaseModel):
    """What ansible/files/probe.py prints. `python` is none where it does not run: then `python_reason` says why."""

    model_config = ConfigDict(frozen=True)

    asked_at: float
    time: float
    python: tuple[int, int] | None
    python_reason: str
    machine: str
    systemd: bool
    active_units: tuple[str, ...]
    room_bytes: int
    dependencies: tuple[str, ...]
    taken: dict[int, Taken]
    executable: dict[str, bool]
    present: dict[str, bool]
    unresolved: tuple[str, ...]
    neurons: dict[str, Contact]
    gpus: Gpus

    def is_running(self, unit: str, port: int) -> bool:
        """Whether it is this program that listens there."""
        taken = self.taken.get(port)
        return taken is not None and (unit in self.active_units if taken.ours is None else taken.ours)


class Silence(BaseModel):
    """A host that did not answer."""

    model_config = ConfigDict(frozen=True)

    what: str
    expected: str
    found: str


def answer(result: Mapping[str, Any]) -> Answer | Silence:
    """Out of the result of the task that ran the probe."""
    if result.get("unreachable"):
        return Silence(what="connection", expected="be reachable for Ansible", found=_line(result.get("msg", "is not")))
    printed = [line for line in str(result.get("stdout", "")).splitlines() if line.startswith("{")]
    try:
        return Answer.model_validate_json(printed[-1] if printed else "")
    except ValidationError:
        words = result.get("stderr") or result.get("stdout") or result.get("msg") or "says nothing"
        return Silence(what="python3", expected="run the probe", found=_line(words))


def _line(words: object) -> str:
    return " ".join(str(words).split())[-300:]
