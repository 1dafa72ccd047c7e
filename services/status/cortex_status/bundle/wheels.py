"""The wheels of all that cortex needs, by pip, as pip is set up on this machine: its index, its proxies, its torch.

Owns: the call, and that what came is complete: pip judges `python_version` markers by the Python that runs it, so for
another Python it may leave out what that one needs. Does not own: versions (constraints.txt). Called by: command.py.
"""

from __future__ import annotations

import email.parser
import email.policy
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from cortex_status.bundle.failures import BundleFailed
from cortex_status.bundle.target import Target

ROUNDS = 5
SHOWN_LINES = 20


@dataclass(frozen=True)
class Wheel:
    """A file, and what it says that it needs."""

    path: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]


def fetch(target: Target, requirements: Sequence[str], constraints: Path, folder: Path) -> list[Wheel]:
    """The wheels that the requirements need on the target, sorted by name; others in the folder are removed.

    Raises BundleFailed with pip's own words.
    """
    wanted = list(requirements)
    for _ in range(ROUNDS):
        _download(target, wanted, constraints, folder)
        wheels = {wheel.name: wheel for wheel in map(read, sorted(folder.glob("*.whl")))}
        needed, lacking = closure(target, requirements, wheels)
        if not lacking:
            for name in wheels.keys() - needed:
                wheels[name].path.unlink()
            return [wheels[name] for name in sorted(needed)]
        wanted += lacking
    raise BundleFailed(f"{target.name}: pip does not fetch {', '.join(lacking)}")


def closure(target: Target, requirements: Iterable[str], wheels: Mapping[str, Wheel]) -> tuple[set[str], list[str]]:
    """The names that are needed, directly or not, and the requirements for which no wheel is there."""
    environment = target.environment()
    needed, lacking = set[tuple[str, str]](), dict[str, None]()
    open_ends = [Requirement(text) for text in requirements]
    while open_ends:
        requirement = open_ends.pop()
        name = canonicalize_name(requirement.name)
        if name not in wheels:
            lacking[f"{requirement.name}{requirement.specifier}"] = None
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in needed:
                continue
            needed.add((name, extra))
            told: dict[str, str] = {**environment, "extra": extra}
            open_ends += [each for each in wheels[name].requires if each.marker is None or each.marker.evaluate(told)]
    return {name for name, _ in needed}, list(lacking)


def read(path: Path) -> Wheel:
    """What a wheel's file says of it."""
    name, version, _, _ = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as content:
        [entry] = [each for each in content.namelist() if each.count("/") == 1 and each.endswith(".dist-info/METADATA")]
        text = content.read(entry).decode()
    metadata = email.parser.Parser(policy=email.policy.compat32).parsestr(text, headersonly=True)
    requires = tuple(Requirement(line) for line in metadata.get_all("Requires-Dist", []))
    return Wheel(path, name, str(version), requires)


def _download(target: Target, requirements: Sequence[str], constraints: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    command += ["--no-cache-dir"]  # the wheels stay in the bundle; a second copy of several GB serves nobody
    command += [f"--dest={folder}", f"--find-links={folder}", f"--constraint={constraints}"]
    done = subprocess.run(
        [*command, *target.pip_arguments(), *requirements], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip().splitlines()[-SHOWN_LINES:]
        raise BundleFailed("\n".join([f"{target.name}: pip cannot fetch what cortex needs:", *words]))
