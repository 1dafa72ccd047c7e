"""The pages under docs/, as their tests read them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]


def page(name: str) -> str:
    """The page's text."""
    return (ROOT / "docs" / name).read_text()


def rows(text: str, section: str) -> list[list[str]]:
    """The cells of the one table of a section, without its head."""
    (part,) = [part for part in text.split("\n## ") if part.startswith(section + "\n")]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
