"""cortex itself as a wheel, built from the checkout only when a file of it has changed.

Owns: which files count, and the build. Called by: command.py.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cortex_status.bundle.failures import BundleFailed
from cortex_status.bundle.target import Target

KEPT_WHEELS = 3


@dataclass(frozen=True)
class Checkout:
    """The folder of pyproject.toml, and what that says."""

    folder: Path
    version: str
    requires: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]

    def requirements(self, target: Target) -> list[str]:
        """All that cortex asks for on the target, by name and range."""
        return [*self.requires, *(line for extra in target.extras for line in self.extras[extra])]

    @property
    def constraints(self) -> Path:
        """The versions that cortex was tested with."""
        return self.folder / "constraints.txt"


def checkout(folder: Path) -> Checkout:
    """What lies in the folder. Raises BundleFailed where it is none of cortex."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as failure:
        raise BundleFailed(f"{folder}: no checkout of cortex: pyproject.toml: {failure}") from failure
    extras = {name: tuple(lines) for name, lines in project["optional-dependencies"].items()}
    return Checkout(folder, project["version"], tuple(project["dependencies"]), extras)


def wheel(checkout: Checkout, folder: Path) -> Path:
    """cortex's wheel below the folder, built now unless one of the same files is there. Raises BundleFailed."""
    _build_kernels(checkout.folder)
    place = folder / digest(checkout.folder)
    if found := next(place.glob("*.whl"), None):
        place.touch()  # the newest are kept
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as unfinished:
        _build(checkout.folder, Path(unfinished))
        place.mkdir(exist_ok=True)
        [built] = Path(unfinished).glob("*.whl")
        built.rename(place / built.name)
    _remove_old(folder)
    return place / built.name


def digest(folder: Path) -> str:
    """Of every file that the wheel is made from."""
    total = hashlib.sha256()
    for path in _files(folder):
        total.update(f"{path.relative_to(folder)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    packages = (path for path in folder.glob("services/*/cortex_*/**/*") if "__pycache__" not in path.parts)
    return sorted(
        [
            *(folder / name for name in ("pyproject.toml", "README.md", "LICENSE")),
            *(each for each in packages if each.is_file()),
        ]
    )


def _build_kernels(folder: Path) -> None:
    """The neuron's native kernels, where this machine can compile them: hosts cannot. It says what it did not do."""
    script = folder / "services/neuron/cortex_neuron/native/build.py"
    if script.is_file():
        subprocess.run([sys.executable, str(script), "--all"], check=False, stdout=subprocess.DEVNULL)


def _build(folder: Path, into: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "wheel",
        "--quiet",
        "--no-deps",
    ]
    done = subprocess.run([*command, f"--wheel-dir={into}", str(folder)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BundleFailed(f"cortex's wheel cannot be built:\n{(done.stdout + done.stderr).strip()}")


def _remove_old(folder: Path) -> None:
    places = sorted((each for each in folder.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime)
    for place in places[:-KEPT_WHEELS]:
        shutil.rmtree(place)
