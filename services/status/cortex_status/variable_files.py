"""Files of host_vars and group_vars that belong to no host and no group, such as one whose name is misspelt.

ansible-core reads over them without a word. Owns: finding them beside the inventory. Does not own: what they declare.
Called by: inventory.py, and the filters of ansible/plugins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cortex_contracts.inventory.reading import suggestion
from cortex_contracts.inventory.variables import PREFIXES

_EXTENSIONS = (".yml", ".yaml", ".json")
# A file that declares nothing of ours may be there for hosts that come and go. A vaulted one cannot be asked.
_OURS = re.compile(rf"(?:^|[\s\"'{{,])(?:{'|'.join(PREFIXES)})\w+[\"']?\s*:|\A\$ANSIBLE_VAULT", re.MULTILINE)


def stray(folders: Iterable[Path], hosts: Iterable[str], groups: Iterable[str]) -> list[str]:
    """A line for each; `folders` are those of the inventory's sources."""
    kinds = (("host_vars", "host", [*hosts]), ("group_vars", "group", [*groups]))
    return [
        f"file {path}: is of no {kind} of the inventory{suggestion(name, names)}"
        for folder in dict.fromkeys(folders)
        for subfolder, kind, names in kinds
        for path, name in _named(folder / subfolder)
        if name not in names and _is_ours(path)
    ]


def _named(folder: Path) -> Iterator[tuple[Path, str]]:
    """What ansible-core would look for, and by what name."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and not path.name.endswith("~"):
            yield path, path.stem if path.suffix in _EXTENSIONS else path.name


def _is_ours(path: Path) -> bool:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return any(_OURS.search(file.read_text(errors="replace")) for file in files)
