"""Compiles the kernels: `python -m cortex_neuron.native.build`, for this processor, or with --all for each generation
of this kind of machine.

The result lies beside this file, so that a wheel that is built afterwards has it, and hosts need no compiler. Its name
says which sources it is made of: one of other sources is never used, and is removed by the next build.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_SOURCES = _HERE / "kernels"
_BUILD_TIMEOUT_S = 300
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-pthread",
    "-static-libstdc++",  # a host may have an older one than the machine that compiles
    "-static-libgcc",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
)
# A generation: what its compiler flag is, and the processor flags of Linux that it needs. The best is first.
_X86 = (
    ("v4", "-march=x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
    ("v3", "-march=x86-64-v3", frozenset({"avx2", "fma", "f16c", "bmi2"})),
)
_GENERATIONS = {
    "x86_64": _X86,
    "aarch64": (("v8", "-march=armv8.2-a+fp16", frozenset({"asimd", "fphp"})),),
}


class CannotBuild(Exception):
    """There is no compiler, or it failed: `str` says which and why."""


def library_path() -> Path | None:
    """The built library that is best for this machine's processor, if there is one."""
    flags = _processor_flags()
    found = (_path(name) for name, _, needed in _generations() if needed <= flags)
    return next((path for path in found if path.is_file()), None)


def build(every: bool = False) -> list[Path]:
    """Compile what is not there yet, of every generation or of this processor's. Raises CannotBuild."""
    flags = _processor_flags()
    fitting = [(name, flag) for name, flag, needed in _generations() if every or needed <= flags]
    wanted = {_path(name): flag for name, flag in (fitting if every else fitting[:1])}
    for path, flag in wanted.items():
        if not path.is_file():
            _compile(_compiler(), flag, path)
    current = {_path(name) for name, _, _ in _generations()}
    for old in set(_HERE.glob(f"kernels-{platform.machine()}-*.so")) - current:
        old.unlink(missing_ok=True)
    return list(wanted)


def _generations() -> tuple[tuple[str, str, frozenset[str]], ...]:
    return _GENERATIONS.get(platform.machine(), ())


def _path(generation: str) -> Path:
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.read_bytes())
    digest.update(" ".join(_FLAGS).encode())
    return _HERE / f"kernels-{platform.machine()}-{generation}-{digest.hexdigest()[:8]}.so"


def _compiler() -> str:
    asked = os.environ.get("CXX")
    found = asked or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if found is None:
        raise CannotBuild("no C++ compiler is installed (c++, g++ or clang++)")
    return found


def _compile(compiler: str, flag: str, path: Path) -> None:
    made = path.with_suffix(f".{os.getpid()}")
    command = [compiler, *_FLAGS, flag, str(_SOURCES / "decoder.cpp"), "-o", str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
        if done.returncode:
            raise CannotBuild(f"{compiler} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        made.replace(path)  # at once: two that build at the same time come to the same
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler}: {error}") from error
    finally:
        made.unlink(missing_ok=True)


def _processor_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def main() -> int:
    """Build, and say what came of it; a machine without a compiler is no failure."""
    try:
        for path in build(every="--all" in sys.argv[1:]):
            print(f"native kernels: {path.name}")
    except CannotBuild as reason:
        print(f"native kernels are not built, torch computes in their place: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
