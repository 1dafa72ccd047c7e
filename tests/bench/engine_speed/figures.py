"""From runs to the figures of build/bench-engine.json and the tables. Pure.

Owns: the keys, their words, which way is better; medians over runs. Called by: __main__.py, runs.py (Measured).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Measured:
    """All that was seen of one server."""

    title: str
    version: str = ""
    seen: dict[str, list[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    foreign_cores: float = 0.0

    def add(self, figures: Mapping[str, float]) -> None:
        """What one run saw."""
        for key, value in figures.items():
            self.seen.setdefault(key, []).append(value)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tables."""

    key: str
    words: str
    unit: str
    more_is_better: bool = True


ROWS = (
    Row("decode_tok_s", "one stream, 128 tokens in, 128 out: decode", "tok/s"),
    Row("limit_tok_s", "what memory allows for it, in the format that the engine reads", "tok/s"),
    Row("of_limit", "the share of that", ""),
    Row("ttft_s", "time to first token, 128 tokens in", "s", more_is_better=False),
    Row("prefill_tok_s", "prefill, 1024 tokens in", "tok/s"),
    Row("c8_tok_s", "8 at once, 128 in, 64 out: tokens out over the whole time", "tok/s"),
    Row("c32_tok_s", "32 at once, the same", "tok/s"),
    Row("c8_ttft_worst_s", "slowest first token of 8", "s", more_is_better=False),
    Row("c32_ttft_worst_s", "slowest first token of 32", "s", more_is_better=False),
    Row("shared_prefix_tok_s", "8 that share 512 tokens and differ in 32, 32 out", "tok/s"),
    Row("unshared_prefix_tok_s", "the same with nothing shared", "tok/s"),
    Row("shared_prefix_c32_tok_s", "32 that share 512 tokens and differ in 32, 32 out", "tok/s"),
    Row("cold_start_s", "from the start of the server's command to its first token", "s", more_is_better=False),
    Row("load_s", "from `POST /models/load` to the first token", "s", more_is_better=False),
    Row("rss_mb", "memory after the loads, shared pages once", "MB", more_is_better=False),
    Row("kl_nats", "mean KL divergence from the float32 reference", "nats", more_is_better=False),
    Row("top_1", "positions where the likeliest token is the reference's", ""),
)
_NO_RATIO = {"limit_tok_s", "kl_nats", "top_1"}
_OURS = "cortex"


def figures(measured: Measured, limit_tok_s: float) -> dict[str, Any]:
    """What is known of one server: the medians by key, then what they are made of."""
    medians = {key: statistics.median(values) for key, values in measured.seen.items()}
    medians["limit_tok_s"] = limit_tok_s
    if "decode_tok_s" in medians:
        medians["of_limit"] = medians["decode_tok_s"] / limit_tok_s
    return {
        **{key: round(value, 6) + 0.0 for key, value in medians.items()},  # no -0
        "title": measured.title,
        "version": measured.version,
        "foreign_cores": round(measured.foreign_cores, 2),
        "notes": list(measured.notes),
        "runs": {key: [round(value, 6) for value in values] for key, values in measured.seen.items()},
    }


def table(known: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a figure, a column a server; behind a peer's the times that ours is better."""
    heads = ["figure", *known]
    lines = [[row.key, *(_cell(row, name, known, _ratio) for name in known)] for row in _rows(known)]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    aligned = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (heads, *lines)
    ]
    return "\n".join("  ".join(line) for line in aligned)


def markdown(known: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of docs/benchmarks.md."""
    heads = [f"{each['title']} {each['version']}".strip() for each in known.values()]
    lines = [["figure", *heads], ["---"] * (len(heads) + 1)]
    lines += [[row.words, *(_cell(row, name, known, _spread) for name in known)] for row in _rows(known)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(known: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    return [row for row in ROWS if any(row.key in each for each in known.values())]


def _cell(row: Row, name: str, known: Mapping[str, Mapping[str, Any]], more: Any) -> str:
    value = known[name].get(row.key)
    if value is None:
        return ""
    shown = f"{value:.0%}" if row.key in {"of_limit", "top_1"} else f"{_number(value)} {row.unit}"
    return f"{shown}{more(row, name, known)}"


def _ratio(row: Row, name: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """Above 1 where ours is better."""
    theirs, ours = known[name].get(row.key), known.get(_OURS, {}).get(row.key)
    if name == _OURS or row.key in _NO_RATIO or not ours or not theirs:
        return ""
    return f" ({ours / theirs if row.more_is_better else theirs / ours:.2f})"


def _spread(row: Row, name: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    values = known[name]["runs"].get(row.key, [])
    return f" ({_number(min(values))} to {_number(max(values))})" if len(values) > 1 else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
