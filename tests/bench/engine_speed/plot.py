"""The figure of `--plot`: tokens a second by how many are asked for at once, and by how long the text is. Pure.

Owns: the drawing, an SVG that needs nothing. Does not own: the numbers (figures.py). Called by: __main__.py.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 300, 52, 20, 40, 44  # of a panel, and its margins
_LEGEND = 30
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # told apart by eyes of every kind
_NUM_LINES = 5
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    'font-family="system-ui, sans-serif" font-size="12" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>'
)


@dataclass(frozen=True, slots=True)
class _Panel:
    """`key` matches the figures' names; its group is the place on the axis."""

    key: re.Pattern[str]
    title: str
    axis: str


_PANELS = (
    _Panel(re.compile(r"c(\d+)_tok_s"), "Requests at once: tokens out a second, of all", "requests at once"),
    _Panel(re.compile(r"context_(\d+)_tok_s"), "One request: tokens a second of decoding", "tokens of context"),
)


def svg(known: Mapping[str, Mapping[str, Any]]) -> str:
    """A panel each, a line a server: medians, and behind them from the lowest run to the highest."""
    lines = [_HEAD.format(width=_WIDTH * len(_PANELS), height=_HEIGHT + _LEGEND)]
    for number, panel in enumerate(_PANELS):
        lines += [f'<g transform="translate({number * _WIDTH} 0)">', *_panel(panel, known), "</g>"]
    for number, server in enumerate(known.values()):
        x, y = _LEFT + 160 * number, _HEIGHT + _LEGEND / 2
        name = escape(f"{server['title']} {server['version']}".strip())
        lines.append(f'<circle cx="{x}" cy="{y:g}" r="4" fill="{_colour(number)}"/>')
        lines.append(f'<text x="{x + 10}" y="{y + 4:g}">{name}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: _Panel, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    seen = [_runs(panel, server) for server in known.values()]
    places = sorted({place for runs in seen for place in runs})
    highest = max((value for runs in seen for values in runs.values() for value in values), default=1.0)
    top = _ceiling(highest)

    def x(place: int) -> float:
        """Each twice the one before is one step on."""
        first, last = math.log2(places[0]), math.log2(places[-1])
        share = (math.log2(place) - first) / (last - first) if last > first else 0.5
        return _LEFT + 10 + share * (_WIDTH - _LEFT - _RIGHT - 20)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)

    lines = [_text(_LEFT, 20, panel.title, "start", "bold")]
    for number in range(_NUM_LINES + 1):
        value = top * number / _NUM_LINES
        lines.append(f'<path d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        lines.append(_text(_LEFT - 6, y(value) + 4, f"{value:g}", "end"))
    lines += [_text(x(place), _HEIGHT - _BOTTOM + 18, str(place), "middle") for place in places]
    lines.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, panel.axis, "middle"))
    for number, runs in enumerate(seen):
        lines += _line({x(place): [y(value) for value in values] for place, values in runs.items()}, _colour(number))
    return lines


def _runs(panel: _Panel, server: Mapping[str, Any]) -> dict[int, list[float]]:
    """What each run saw, by its place on the axis."""
    matched = {name: panel.key.fullmatch(name) for name in server["runs"]}
    return dict(sorted((int(match[1]), server["runs"][name]) for name, match in matched.items() if match))


def _line(points: Mapping[float, Sequence[float]], colour: str) -> list[str]:
    """Through the medians."""
    middles = [(x, statistics.median(values)) for x, values in points.items()]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in middles)
    spans = "".join(f"M{x:.1f} {min(values):.1f}V{max(values):.1f}" for x, values in points.items())
    return [
        f'<path d="{spans}" stroke="{colour}" stroke-opacity="0.4" stroke-width="4"/>' if spans else "",
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in middles),
    ]


def _ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)


def _text(x: float, y: float, words: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
