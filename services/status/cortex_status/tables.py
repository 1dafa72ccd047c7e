"""Tables and lines for people, and the terminal or pipe they go to.

Owns: how values become text. Every value came from another machine: it is shown as text on one line, never as markup or
a terminal's control sequence. Does not own: columns and words. Called by: fleet_status, operate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "green": {"ok", "ready", "loaded", "chosen", "open"},
    "yellow": {
        "activating",
        "draining",
        "pending",
        "loading",
        "recovering",
        "stopping",
        "degraded",
        "possible",
        "wait",
    },
    "red": {"failed", "unavailable", "refused", "unreachable", "timed out", "bad answer", "impossible", "reject"},
}
UNKNOWN = "-"


def console(stderr: bool = False) -> Console:
    """Where text goes. A file or a pipe folds nothing: there a line is a row."""
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 10_000
    return made


def table(title: str, columns: str, rows: Iterable[Sequence[str]]) -> Table | None:
    """None where there is nothing to show. A column whose name begins with > is set to the right."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for name in columns.split():
        made.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(line, row))
    return made if made.row_count else None


def tell(console: Console, words: str) -> None:
    """What went wrong, or on: each of its lines as `line` shows it, however wide."""
    for each in words.splitlines():
        console.print(line(each), soft_wrap=True)


def line(value: str) -> Text:
    """One line; coloured where it begins with the name of a state."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in value).split())
    for style, states in STYLES.items():
        if any(shown == state or shown.startswith((f"{state}:", f"{state} (")) for state in states):
            return Text(shown, style=style)
    return Text(shown)
