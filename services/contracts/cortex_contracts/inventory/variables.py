"""Which inventory variables are cortex's, and their values as plain built-ins.

Owns: the prefixes, and the border between Ansible's values and ours. Does not own: what a variable may hold (fleet.py).
Called by: the filter plugin (values from hostvars) and cortex_status.inventory (values read in process).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PREFIXES = ("cortex_", "gateway_", "neuron_", "monitoring_", "nvidia_driver_", "nvidia_cuda_", "nvidia_nccl_")
CONNECTION = ("ansible_host", "ansible_connection")
GROUPS = ("gateway", "neurons")
OPTIONAL_GROUPS = ("monitoring",)

Hosts = Mapping[str, Mapping[str, Any]]
Groups = Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Unreadable:
    """Stands in the place of a value that could not be templated or decrypted."""

    reason: str

    @classmethod
    def because(cls, error: Exception) -> Unreadable:
        """With the error's words, on one line."""
        return cls(" ".join(str(error).split()))


def members(groups: Groups) -> list[str]:
    """The hosts that cortex is concerned with, each once."""
    return [*dict.fromkeys(str(host) for group in (*GROUPS, *OPTIONAL_GROUPS) for host in groups.get(group, ()))]


def unreadable(place: str, value: Any) -> Iterator[str]:
    """A line for each part of the value that stands for one that is not there; `place` is where the value stands."""
    if isinstance(value, Unreadable):
        yield f"{place}: {value.reason}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from unreadable(f"{place}.{key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from unreadable(f"{place}.{number}", item)


def is_ours(name: str) -> bool:
    """Whether cortex reads the variable of this name."""
    return name.startswith(PREFIXES) or name in CONNECTION


def plain(value: Any) -> Any:
    """The value in built-in types all through.

    ansible-core puts lazy containers and tagged scalars in the place of built-ins, and pydantic reads a list's memory
    past the laziness.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for scalar in (bool, int, float, str):
        if isinstance(value, scalar):
            return scalar(value)
    return value
