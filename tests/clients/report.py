"""What became of sessions, and what `make clients` says of it: a line for each, each skip with its reason, the counts.

Pure: results in, text out. Called by: __main__, and whoever comes to a result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Outcome(StrEnum):
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a session; `outside` are hosts that its client wanted to reach besides the fleet."""

    session: str
    outcome: Outcome
    told: str
    seconds: float = 0.0
    outside: tuple[str, ...] = ()


def progress(number: int, count: int, result: Result) -> str:
    """One line; of a failure all that is known."""
    wanted = f" (wanted to reach {', '.join(result.outside)})" if result.outside else ""
    told = result.told.replace("\n", "\n    ")
    return f"{number:3}/{count} {result.seconds:5.0f} s  {result.outcome:8}{result.session}: {told}{wanted}"


def closing(results: Sequence[Result]) -> str:
    """Each skip with its reason, then the counts."""
    counts = Counter(result.outcome for result in results)
    skips = [f"skipped {each.session}: {each.told}" for each in results if each.outcome is Outcome.SKIPPED]
    failed = f", {counts[Outcome.FAILED]} failed" if counts[Outcome.FAILED] else ""
    total = f"{len(results)} sessions, {counts[Outcome.PASSED]} passed, {counts[Outcome.SKIPPED]} skipped{failed}"
    return "\n".join([*skips, f"clients: {total}"])


def exit_code(results: Sequence[Result]) -> int:
    """1 where one failed."""
    return int(any(result.outcome is Outcome.FAILED for result in results))


def as_json(results: Sequence[Result]) -> str:
    """The results, for programs."""
    return json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=1) + "\n"
