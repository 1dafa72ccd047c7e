"""What a bundle is for: cortex's programs, a version of Python, a kind of machine.

Owns: what pip and the markers of requirements are told about it. Pure. Called by: wheels.py, archive.py, command.py.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from packaging.markers import default_environment

# A wheel for this version of glibc runs on every distribution that cortex is for; the oldest has 2.34.
GLIBC = (2, 28)
OLDEST_GLIBC = (2, 5)
LEGACY = ("manylinux1", "manylinux2010", "manylinux2014")
OLDEST_PYTHON = (3, 11)
# Extras of pyproject.toml by program. Traces are an inventory's choice, so what they need is always there.
EXTRAS = {"gateway": ("gateway", "otel"), "neuron": ("neuron", "otel")}


@dataclass(frozen=True)
class Target:
    """`programs` are sorted; `python` is major and minor; `machine` is as `uname -m` says."""

    programs: tuple[str, ...]
    python: tuple[int, int]
    machine: str

    def __str__(self) -> str:
        """As on the command line."""
        return f"{'+'.join(self.programs)}:{self.python[0]}.{self.python[1]}:{self.machine}"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{'+'.join(self.programs)}-{self.tag}-{self.machine}"

    @property
    def tag(self) -> str:
        """Such as cp311."""
        return f"cp{self.python[0]}{self.python[1]}"

    @property
    def extras(self) -> list[str]:
        """Of pyproject.toml, each once."""
        return list(dict.fromkeys(extra for program in self.programs for extra in EXTRAS[program]))

    @property
    def is_like_here(self) -> bool:
        """Whether the Python that runs now is of the same kind."""
        return self.python == sys.version_info[:2] and self.machine == platform.machine()

    def pip_arguments(self) -> list[str]:
        """What makes `pip download` fetch for it."""
        if self.is_like_here:
            return ["--only-binary=:all:"]
        newer = [f"manylinux_{GLIBC[0]}_{minor}" for minor in range(GLIBC[1], OLDEST_GLIBC[1] - 1, -1)]
        chosen = [f"--platform={platform}_{self.machine}" for platform in (*newer, *reversed(LEGACY), "linux")]
        version = f"{self.python[0]}.{self.python[1]}"
        abis = [f"--abi={abi}" for abi in (self.tag, "abi3", "none")]
        return ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}", *abis, *chosen]

    def environment(self) -> dict[str, str]:
        """What markers of requirements are judged by."""
        version = f"{self.python[0]}.{self.python[1]}"
        known = {name: value for name, value in default_environment().items() if isinstance(value, str)}
        return known | {
            "python_version": version,
            "python_full_version": f"{version}.0",
            "implementation_version": f"{version}.0",
            "platform_machine": self.machine,
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
        }
