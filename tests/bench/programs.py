"""Programs that a peers.toml names: ours, and those of others that are measured beside ours.

Owns: whether one is installed, its files and command with the blanks filled in, its process group and its log, when it
is ready. Does not own: what a table says beyond that, or what is asked of the program. Called by:
gateway_cost.gateways, engine_speed.servers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_PEERS = "{peers}"
_STOP_TIMEOUT_S = 10
_GET_TIMEOUT_S = 2


class NotReady(Exception):
    """A program that ended, or did not answer in its time; with the end of its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """How one is started. A blank, such as `{port}`, is filled in from the names of a measurement."""

    name: str
    title: str
    start: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    version: Sequence[str] = ()
    ready: str = "/health"
    says: str = ""
    timeout_s: float = 30.0

    def installed(self, peers: Path | None) -> bool:
        """Whether it is there; another's only where a folder of peers was named."""
        if self.name == "cortex":
            return True
        if peers is None:
            return False
        parts = [part.replace(_PEERS, str(peers)) for part in self.start]
        here = [Path(part).exists() for was, part in zip(self.start, parts, strict=True) if was.startswith(_PEERS)]
        return shutil.which(parts[0]) is not None and all(here)

    def says_its_version(self, names: Mapping[str, str]) -> str:
        """One line; empty where the table tells no way to ask."""
        command = [filled(part, names) for part in self.version]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() if command else ""


AnyProgram = TypeVar("AnyProgram", bound=Program)


def listed(table: Path, kind: type[AnyProgram]) -> list[AnyProgram]:
    """All that a peers.toml names, in its order."""
    tables: dict[str, dict[str, Any]] = tomllib.loads(table.read_text())
    return [kind(name=name, **entry) for name, entry in tables.items()]


def filled(text: str, names: Mapping[str, str]) -> str:
    """The text, its blanks filled in."""
    for name, value in names.items():
        text = text.replace(name, value)
    return text


@contextlib.contextmanager
def started(
    program: Program,
    names: Mapping[str, str],
    folder: Path,
    configs: Path,
    pinned: Sequence[str] = (),
    step_s: float = 0.1,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it is ready; its files and its log are in `folder`. Raises NotReady."""
    for name, source in program.files.items():
        (folder / name).write_text(filled((configs / source).read_text(), names))
    command = [*pinned, *(filled(part, names) for part in program.start)]
    environment = {**os.environ, **{key: filled(value, names) for key, value in program.env.items()}}
    log = folder / "log"
    with _logged(command, environment, log) as process:
        deadline = time.monotonic() + program.timeout_s
        while not _is_ready(f"http://127.0.0.1:{names['{port}']}{program.ready}", program.says):
            if process.poll() is not None or time.monotonic() > deadline:
                how = f"not ready in {program.timeout_s:g} s" if process.returncode is None else "ended"
                raise NotReady(f"{how}; its log: {log.read_text()[-2000:]}")
            time.sleep(step_s)
        yield process


def _is_ready(url: str, says: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=_GET_TIMEOUT_S) as answer:
        return says in answer.read().decode()
    return False


@contextlib.contextmanager
def _logged(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
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
