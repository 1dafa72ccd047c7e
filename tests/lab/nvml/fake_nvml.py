"""Compiles fake_nvml.c; its head says what it answers from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("fake_nvml.c")


def build(folder: Path) -> Path:
    """The fake library in `folder`, which is what LD_LIBRARY_PATH must name."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(_SOURCE)], check=True)
    return folder


def environment(folder: Path | None, **settings: int) -> dict[str, str]:
    """A process's environment in which that library says so."""
    said = {f"FAKE_NVML_{name}": str(value) for name, value in settings.items()}
    return os.environ | said | ({"LD_LIBRARY_PATH": str(folder)} if folder else {})
