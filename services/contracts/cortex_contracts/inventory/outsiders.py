"""Hosts that nothing is done with, though the inventory says how: those with variables of cortex and in no group of it.

Owns: telling a variable that was given to such a host from one that reaches it along with others. Called by:
problems.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cortex_contracts.inventory.reading import suggestion
from cortex_contracts.inventory.variables import GROUPS, OPTIONAL_GROUPS, PREFIXES, Groups, Hosts, members

OURS = (*GROUPS, *OPTIONAL_GROUPS)


def outsiders(hosts: Hosts, groups: Groups) -> Iterator[tuple[str, str]]:
    """Each such host, and a line about it. Nothing while a group is missing, for then that is what is wrong."""
    if any(group not in groups for group in GROUPS):
        return
    inside = dict.fromkeys(members(groups))
    known = [hosts[name] for name in inside]
    for name in (name for name in hosts if name not in inside):
        own = [variable for variable, value in hosts[name].items() if _is_its_own(variable, value, known)]
        if own:
            meant = "".join(suggestion(group, OURS) for group in _groups_of(name, groups))
            yield name, f"{', '.join(own)}: is of no use to a host in none of the groups {', '.join(OURS)}{meant}"


def _is_its_own(variable: str, value: Any, known: list[Mapping[str, Any]]) -> bool:
    """Not one that every host has, as from group_vars/all, nor one that others share with it, as of a rack."""
    if not variable.startswith(PREFIXES) or all(variable in variables for variables in known):
        return False
    return not any(variable in variables and variables[variable] == value for variables in known)


def _groups_of(name: str, groups: Groups) -> list[str]:
    return [group for group, hosts in groups.items() if group not in ("all", "ungrouped") and name in hosts]
