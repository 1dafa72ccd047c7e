"""The processes of one measurement: the mock engine and a gateway before it, each pinned to its core.

Owns: compiling the C, which gateways there are (peers.toml), starting and stopping. Does not own: what is asked of
them (answers.py, timing.py). Called by: __main__.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tests.bench import processes, programs

HERE = Path(__file__).resolve().parent
GATEWAY_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True, slots=True)
class Spec(programs.Program):
    """One table of peers.toml."""

    direct: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    settle_s: float = 1.0
    anthropic: bool = False
    translates: bool = False


def specs(peers: Path | None) -> list[Spec]:
    """What can be measured here."""
    return [spec for spec in programs.listed(HERE / "peers.toml", Spec) if spec.direct or spec.installed(peers)]


def compiled(folder: Path) -> tuple[Path, Path]:
    """The mock and the load, compiled into `folder` where they are older than their source."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mock", "load"):
        source, program = HERE / f"{name}.c", folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, source, "-lm"], check=True)
    return folder / "mock", folder / "load"


def pinned(core: int, *command: object) -> list[str]:
    """A command on one core; on the only one where there are no more."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core % len(cores)]), *map(str, command)]


@dataclass(frozen=True, slots=True)
class Mock:
    """The engine."""

    port: int
    process: psutil.Process

    def set(self, chunks: int = 128, delay_us: int = 0) -> None:
        """What the next streams are like."""
        self._get(f"/_mock/set?chunks={chunks}&delay_us={delay_us}")

    def stats(self) -> dict[str, int]:
        """Counts since it was started."""
        counts: dict[str, int] = json.loads(self._get("/_mock/stats"))
        return counts

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            content: bytes = answer.read()
        return content


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway that answers, or the engine itself."""

    spec: Spec
    port: int
    process: psutil.Process
    headers: Mapping[str, str]
    version: str

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        return [self.process, *self.process.children(recursive=True)]

    def rss_mb(self) -> float:
        """Resident memory of the tree."""
        return float(sum(each.memory_info().rss for each in self.tree())) / 2**20


@contextlib.contextmanager
def mock(program: Path) -> Iterator[Mock]:
    """The engine, on a port of its own."""
    port = processes.free_port()
    with processes.started(*pinned(LOAD_CORE, program, "--port", port)) as process:
        processes.wait_for(f"http://127.0.0.1:{port}/health", "ok", 10)
        yield Mock(port, process)


@contextlib.contextmanager
def running(spec: Spec, engine: Mock, peers: Path | None, folder: Path) -> Iterator[Gateway]:
    """The gateway, once it is ready; its files and its log are in `folder`."""
    port = engine.port if spec.direct else processes.free_port()
    names = {
        "{peers}": str(peers), "{run}": str(folder), "{bin}": str(processes.BIN), "{port}": str(port),
        "{engine_port}": str(engine.port), "{aux_port}": str(processes.free_port()),
    }  # fmt: skip
    headers = {"Authorization": "Bearer sk-bench", "anthropic-version": "2023-06-01"}
    headers |= {key: programs.filled(value, names) for key, value in spec.headers.items()}
    version = spec.says_its_version(names)
    if spec.direct:
        yield Gateway(spec, port, engine.process, headers, version)
        return
    with programs.started(spec, names, folder, HERE / "configs", pinned(GATEWAY_CORE)) as process:
        time.sleep(spec.settle_s)
        yield Gateway(spec, port, psutil.Process(process.pid), headers, version)
