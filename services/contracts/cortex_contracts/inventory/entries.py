"""Lists of keys and values, such as `cortex_models`: each entry's faults as lines that say which entry.

Owns: what an entry is called in a line. Does not own: one value's faults (reading.py). Called by: problems.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cortex_contracts.inventory.reading import Shape, suggestion, take
from cortex_contracts.inventory.variables import Unreadable

StandIns = Callable[[int], Mapping[str, Any]]


def take_entries(
    shape: type[Shape], entries: Any, stand_ins: StandIns, called_by: str | None
) -> tuple[tuple[Shape, ...], list[str]]:
    """The entries as `shape`, and what is wrong with them.

    An entry is called by its value of `called_by`, or by its number where that is None: then the entries hold secrets,
    and nothing that may be one is shown.
    """
    if isinstance(entries, Unreadable):
        return (), [entries.reason]
    if not isinstance(entries, list):
        return (), [f"should be a list of entries, is {_shown(entries, called_by)}"]
    taken, found = [], []
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, Unreadable):
            found.append(f"entry {number}: {entry.reason}")
            continue
        if not isinstance(entry, dict):
            found.append(f"entry {number}: should be keys and values, is {_shown(entry, called_by)}")
            continue
        called = entry.get(called_by) if called_by else None
        name = called if called and isinstance(called, str) else f"entry {number}"
        value, lines = take_keys(shape, entry, stand_ins(number))
        found += [f"{name}: {line}" for line in lines]
        taken.append(value)
    return tuple(taken), found


def take_keys(shape: type[Shape], entry: Mapping[str, Any], stand_ins: Mapping[str, Any]) -> tuple[Shape, list[str]]:
    """One entry as `shape`, and what is wrong with it: its values, and keys that the shape does not have."""
    value, lines = take(shape, entry, stand_ins)
    unknown = (key for key in entry if key not in shape.model_fields)
    return value, [*lines, *(f"{key}: no such key{suggestion(key, shape.model_fields)}" for key in unknown)]


def _shown(value: Any, called_by: str | None) -> str:
    return f"a {type(value).__name__}" if called_by is None else repr(value)
