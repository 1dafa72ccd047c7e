"""Clients on this machine: each in a virtual environment or npm prefix of its own, made when it is first asked for.

Owns: the folders under build/clients. Registries are those that pip and npm are set up with. Called by: __main__.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients.report import Outcome, Result
from tests.clients.table import Client, Session

_TIMEOUT_S = 900
_GENTLY = ("nice", "-n", "19")
_SAID = 200  # characters of an installer's words


class NotInstalled(Exception):
    """A client that cannot be had here; says why."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a client is, and the Python that runs a session in Python for it: its own, where it has one."""

    folder: Path
    python: Path

    @property
    def programs(self) -> tuple[Path, ...]:
        """Folders of its commands."""
        return (self.folder / "bin", self.folder / "node_modules/.bin")


def installed_of(
    sessions: Sequence[Session], installing: Callable[[Session], Installed]
) -> tuple[list[tuple[Session, Installed]], list[Result]]:
    """Sessions whose clients are there, tried once each, one after another; and the skips of the others."""
    ready, absent = [], {}
    for session in sessions:
        try:
            if session.client_name not in absent:
                ready.append((session, installing(session)))
        except NotInstalled as reason:
            absent[session.client_name] = f"{', '.join(session.client.packages)} cannot be installed: {reason}"
    skips = [(session.name, absent[session.client_name]) for session in sessions if session.client_name in absent]
    return ready, [Result(name, Outcome.SKIPPED, reason) for name, reason in skips]


class Installation:
    """A client's folder: made whole, or made anew."""

    def __init__(self, folder: Path, client: Client) -> None:
        self._folder, self._client = folder, client
        self._mark = folder / "installed.json"  # written last: a folder without it is half a client
        self._wanted = json.dumps(client.packages)

    def is_made(self) -> bool:
        """With the packages of the table as it is now."""
        return self._mark.exists() and self._mark.read_text() == self._wanted

    def make(self) -> None:
        """From nothing. Raises NotInstalled."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        if self._client.pip:
            _by_pip(self._folder, self._client.pip)
        else:
            _by_npm(self._folder, self._client.npm)
        self._mark.write_text(self._wanted)

    def installed(self) -> Installed:
        """Where it is, once it is made."""
        return Installed(self._folder, self._folder / "bin/python" if self._client.pip else Path(sys.executable))


def _by_pip(folder: Path, packages: tuple[str, ...]) -> None:
    _run("venv", sys.executable, "-m", "venv", str(folder))
    python, quiet = str(folder / "bin/python"), ("--quiet", "--disable-pip-version-check")
    _run("pip", python, "-m", "pip", "install", *quiet, *packages)


def _by_npm(folder: Path, packages: tuple[str, ...]) -> None:
    wanted = [package.replace("==", "@") for package in packages]
    quiet = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    _run("npm", "npm", "install", "--prefix", str(folder), *quiet, *wanted)


def _run(name: str, *command: str) -> None:
    if shutil.which(command[0]) is None:
        raise NotInstalled(f"there is no {name} here")
    try:
        done = subprocess.run([*_GENTLY, *command], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{name} was not done in {_TIMEOUT_S} s") from None
    if done.returncode:
        raise NotInstalled(f"{name} says: {_reason(done.stdout + done.stderr)}")


def _reason(said: str) -> str:
    """The first error: what follows are its consequences, and where a log is."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing"]
    return next((line for line in lines if "error" in line.lower()), lines[-1])[:_SAID]
