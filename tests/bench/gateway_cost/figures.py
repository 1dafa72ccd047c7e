"""From runs to the figures of build/bench-gateway.json and the table of docs/benchmarks.md. Pure.

Owns: the keys and what each is made of: medians over runs; "added" is the difference to `direct` in the same
measurement. Called by: __main__.py.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.gateway_cost.timing import Run


@dataclass
class Measured:
    """All that was seen of one gateway. Memory in MB."""

    title: str
    version: str = ""
    checks: dict[str, bool] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    idle_rss_mb: float = 0.0
    rss_mb: float = 0.0
    soaked_rss_mb: float | None = None

    def median(self, scenario: str, of: Callable[[Run], float]) -> float | None:
        """Of a scenario's runs; None where it was not run."""
        runs = self.runs.get(scenario)
        return statistics.median(map(of, runs)) if runs else None


def figures(measured: Measured, direct: Measured) -> dict[str, float]:
    """What is known of one gateway, by key."""

    def added(scenario: str, of: Callable[[Run], float]) -> float | None:
        mine, base = measured.median(scenario, of), direct.median(scenario, of)
        return mine - base if mine is not None and base is not None else None

    passed, translated = _cpu(measured, "messages"), _cpu(measured, "messages_translated")
    found = {
        "cpu_s_per_1k_requests": _cpu(measured, "requests"),
        "cpu_s_per_1k_requests_64k": _cpu(measured, "requests_64k"),
        "cpu_s_per_100k_chunks_paced": _cpu(measured, "streams_paced"),
        "cpu_s_per_100k_chunks_flat": _cpu(measured, "streams_flat"),
        "added_p50_ms": added("open_100", lambda run: run.p50_ms),
        "added_p99_ms": added("open_100", lambda run: run.p99_ms),
        "added_ttft_ms": added("streams_4", lambda run: run.first_p50_ms),
        "added_ttft_burst_ms": added("streams_paced", lambda run: run.first_p50_ms),
        "requests_per_s": measured.median("requests", lambda run: run.per_s),
        "cpu_s_per_1k_messages": passed,
        "cpu_s_per_1k_messages_translated": translated,
        "translated_to_passed": translated / passed if passed and translated else None,
        "cpu_s_per_100k_chunks_messages": _cpu(measured, "messages_paced"),
        "cpu_s_per_100k_chunks_translated": _cpu(measured, "messages_paced_translated"),
        "idle_rss_mb": measured.idle_rss_mb,
        "rss_mb": measured.rss_mb,
        "rss_mb_after_soak": measured.soaked_rss_mb,
    }
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def table(named: Mapping[str, Mapping[str, float]]) -> str:
    """A line a figure, a column a gateway, in Markdown."""
    keys = list(dict.fromkeys(key for known in named.values() for key in known))
    lines = [_row("figure", list(named)), _row("---", ["---:"] * len(named))]
    lines += [_row(key, [_number(known.get(key)) for known in named.values()]) for key in keys]
    return "\n".join(lines)


def _cpu(measured: Measured, scenario: str) -> float | None:
    return measured.median(scenario, lambda run: run.cpu_s)


def _row(head: str, cells: Sequence[str]) -> str:
    return f"| {head} | {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
