"""The names by which playbooks and the roles' templates call cortex_status.ansible_filters.

Ansible loads all filters in each process that uses any, and each task of each host is a process: what stands behind a
name is imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ansible.errors import AnsibleError

NAMES = [
    "cortex_loaded",
    "cortex_problems",
    "cortex_neurons",
    "cortex_sources",
    "cortex_targets",
    "cortex_catalogue",
    "cortex_model_files",
    "cortex_questions",
    "cortex_kinds",
    "cortex_host_problems",
    "cortex_keys",
    "cortex_allowance",
    "cortex_digest",
]


def _call(name: str, *arguments: Any) -> Any:
    try:
        filters = importlib.import_module("cortex_status.ansible_filters")
    except ImportError as error:
        raise AnsibleError(
            f"cortex is not installed for the Python that runs Ansible; `make` does so in .venv: {error}"
        ) from error
    return getattr(filters, name)(*arguments)


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {name: partial(_call, name) for name in NAMES}
