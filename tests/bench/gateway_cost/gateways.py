"""The processes of one measurement: the mock engine and a gateway before it, each pinned to its core.

Owns: compiling the C, which gateways there are (peers.toml), starting and stopping. Does not own: what is asked of
them (answers.py, timing.py). Called by: __main__.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tests.bench import processes

HERE = Path(__file__).resolve().parent
GATEWAY_CORE, LOAD_CORE = 0, 1
_OUR_BIN = Path(sys.executable).parent
_STOP_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Spec:
    """One table of peers.toml."""

    name: str
    title: str
    direct: bool = False
    start: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    version: Sequence[str] = ()
    ready: str = "/health"
    says: str = ""
    settle_s: float = 1.0
    timeout_s: float = 30.0
    anthropic: bool = False
    translates: bool = False

    def installed(self, peers: Path | None) -> bool:
        """Whether its program is there; a peer's only where a folder of peers was named."""
        if self.direct or self.name == "cortex":
            return True
        if peers is None:
            return False
        parts = [part.replace("{peers}", str(peers)) for part in self.start]
        here = [Path(part).exists() for was, part in zip(self.start, parts, strict=True) if was.startswith("{peers}")]
        return shutil.which(parts[0]) is not None and all(here)


def specs(peers: Path | None) -> list[Spec]:
    """What can be measured here."""
    tables: dict[str, dict[str, Any]] = tomllib.loads((HERE / "peers.toml").read_text())
    listed = (Spec(name, **table) for name, table in tables.items())
    return [spec for spec in listed if spec.installed(peers)]


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
        "{peers}": str(peers), "{run}": str(folder), "{bin}": str(_OUR_BIN), "{port}": str(port),
        "{engine_port}": str(engine.port), "{aux_port}": str(processes.free_port()),
    }  # fmt: skip
    headers = {"Authorization": "Bearer sk-bench", "anthropic-version": "2023-06-01"}
    headers |= {key: _filled(value, names) for key, value in spec.headers.items()}
    version = _output([_filled(part, names) for part in spec.version])
    if spec.direct:
        yield Gateway(spec, port, engine.process, headers, version)
        return
    for name, source in spec.files.items():
        (folder / name).write_text(_filled((HERE / "configs" / source).read_text(), names))
    command = pinned(GATEWAY_CORE, *(_filled(part, names) for part in spec.start))
    environment = {**os.environ, **{key: _filled(value, names) for key, value in spec.env.items()}}
    with _logged(command, environment, folder / "log") as process:
        _wait_until_ready(f"http://127.0.0.1:{port}{spec.ready}", spec, process, folder / "log")
        time.sleep(spec.settle_s)
        yield Gateway(spec, port, psutil.Process(process.pid), headers, version)


def _filled(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() if command else ""


@contextlib.contextmanager
def _logged(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=log.parent,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(url: str, spec: Spec, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + spec.timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if spec.says in answer.read().decode():
                return
        time.sleep(0.1)
    raise TimeoutError(f"{spec.name} was not ready in {spec.timeout_s:g} s; its log ends: {log.read_text()[-2000:]}")
