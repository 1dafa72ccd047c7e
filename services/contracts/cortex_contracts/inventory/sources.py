"""What a model's `source` says where its files are, and which files those are.

Owns: telling a path from a repository by its words alone, and the files of a repository that a neuron reads. Does not
own: looking for them. Called by: the neuron (residency.sources), and the playbooks' filters.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch

WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def names_a_path(source: str) -> bool:
    """True for what can only be a path; org/name may also be a folder where the neuron is started."""
    return source.startswith(("/", ".", "~")) or not _REPOSITORY.fullmatch(source)


def is_wanted(name: str) -> bool:
    """Whether a neuron reads the file of a repository; `name` is relative to it."""
    return any(fnmatch(name, pattern) for pattern in WANTED)
