"""The tables of docs/inventory.md, from the roles' options: every variable, its kind, its default, what it is.

Owns: what follows the page's marker; what is above it is written by hand. Called by: a developer who changed the
schema, as `python -m cortex_contracts.inventory.reference docs/inventory.md`, and the test that compares the result
with the committed page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.argument_specs import argument_specs
from cortex_contracts.inventory.roles import ROLES, Role

MARKER = "<!-- below: written by `python -m cortex_contracts.inventory.reference docs/inventory.md` -->\n"
KINDS = {
    "raw": "word or list",
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "yes or no",
    "list": "list",
    "dict": "names and values",
}


def page(current: str) -> str:
    """The page with its tables as the schema is now."""
    by_hand = current.partition(MARKER)[0]
    return by_hand + MARKER + "".join(_section(role) for role in ROLES)


def _section(role: Role) -> str:
    options = argument_specs(role)["argument_specs"]["main"]["options"]
    text = f"\n## Role `{role.name}`\n\n{role.title}.\n\n{_table(options)}"
    return text + "".join(_keys(name, option) for name, option in options.items() if "options" in option)


def _keys(name: str, option: dict[str, Any]) -> str:
    entries = "Keys of an entry" if option["type"] == "list" else "Keys"
    text = f"\n### `{name}`\n\n{option['description']}. {entries}:\n\n{_table(option['options'])}"
    inner = {f"{name}: {key}": each for key, each in option["options"].items() if "options" in each}
    return text + "".join(_keys(key, each) for key, each in inner.items())


def _table(options: dict[str, Any]) -> str:
    rows = [
        f"| `{name}` | {_kind(option)} | {_default(option)} | {option['description']} |\n"
        for name, option in options.items()
    ]
    return "| name | kind | default | |\n|---|---|---|---|\n" + "".join(rows)


def _kind(option: dict[str, Any]) -> str:
    if option["type"] == "str" and "choices" in option:
        return " or ".join(f"`{choice}`" for choice in option["choices"])
    return KINDS[option["type"]]


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "must be given"
    return f"`{json.dumps(option['default'])}`" if "default" in option else "none"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text()))
