"""The dependencies of a target in one file, which a host unpacks once, however often cortex itself changes.

Owns: the lock (every wheel with its hash), the archive, and their names. Called by: command.py.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex_status.bundle import wheels
from cortex_status.bundle.source import Checkout
from cortex_status.bundle.target import Target
from cortex_status.bundle.wheels import Wheel

LOCK = "requirements.txt"
ARCHIVE = "wheels.tar"
INSTALLER = "pip"  # hosts may have none: Debian's Python comes without
ID_CHARACTERS = 12


@dataclass(frozen=True)
class Dependencies:
    """`id` is of what is in the archive: the same wheels, the same id."""

    id: str
    archive: Path


def find(checkout: Checkout, target: Target, folder: Path) -> Dependencies | None:
    """The dependencies that the checkout asks for, if they were packed before."""
    place = folder / target.name / _wanted(checkout, target)
    if not (place / LOCK).is_file():
        return None
    return Dependencies(_id((place / LOCK).read_text()), place / ARCHIVE)


def pack(checkout: Checkout, target: Target, folder: Path) -> Dependencies:
    """Fetch and pack them; what the target had before is removed once they are there. Raises BundleFailed."""
    parent = folder / target.name
    parent.mkdir(parents=True, exist_ok=True)
    place = parent / _wanted(checkout, target)
    with tempfile.TemporaryDirectory(dir=parent, prefix="fetching-") as unfinished:
        fetched, content = Path(unfinished) / "wheels", Path(unfinished) / "content"
        fetched.mkdir()
        content.mkdir()
        found = wheels.fetch(target, [*checkout.requirements(target), INSTALLER], checkout.constraints, fetched)
        (content / LOCK).write_text(lock(found))
        _tar(content / ARCHIVE, content / LOCK, found)
        for old in parent.iterdir():
            if old != Path(unfinished):
                shutil.rmtree(old)
        content.rename(place)
    return Dependencies(_id((place / LOCK).read_text()), place / ARCHIVE)


def lock(found: Sequence[Wheel]) -> str:
    """Lines for `pip install --require-hashes`; pip itself is not among them."""
    lines = [
        f"{wheel.name}=={wheel.version} --hash=sha256:{_sha256(wheel.path)}\n"
        for wheel in found
        if wheel.name != INSTALLER
    ]
    return "".join(lines)


def _tar(archive: Path, requirements: Path, found: Sequence[Wheel]) -> None:
    """Flat. Wheels are compressed already, so the archive is not."""
    with tarfile.open(archive, "w") as content:
        content.add(requirements, LOCK)
        for wheel in found:
            # pip's own is run as it is, so it needs no name that tells its version.
            content.add(wheel.path, f"{INSTALLER}.whl" if wheel.name == INSTALLER else wheel.path.name)


def _wanted(checkout: Checkout, target: Target) -> str:
    """A name for what is asked for, which may be met by other wheels on another day or another index."""
    text = "\n".join([*checkout.requirements(target), checkout.constraints.read_text()])
    return hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS]


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS]


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
