"""clients.toml: which clients there are, what is installed of each, and which sessions use it.

Owns: the table's shape, and what is wrong with one. Does not own: installing, running. Called by: __main__, tests.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

HERE = Path(__file__).parent
TABLE = HERE / "clients.toml"
SESSIONS = HERE / "sessions"
_SUFFIXES = (".py", ".mjs")

Pinned = Annotated[str, Field(pattern=r"^@?[a-z0-9][a-z0-9./-]*==[0-9][a-z0-9.]*$")]


class BadTable(Exception):
    """The table and the folder of sessions do not agree; says where."""


class Client(BaseModel):
    """An entry: packages of one of the two installers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pip: tuple[Pinned, ...] = ()
    npm: tuple[Pinned, ...] = ()
    sessions: Annotated[tuple[str, ...], Field(min_length=1)]
    env: dict[str, str] = {}

    @property
    def packages(self) -> tuple[str, ...]:
        return self.pip + self.npm


@dataclass(frozen=True, slots=True)
class Session:
    """A program that talks as one client does."""

    name: str
    program: Path
    client_name: str
    client: Client


def sessions_of(table: Path = TABLE, folder: Path = SESSIONS) -> list[Session]:
    """All sessions, in the table's order. Raises BadTable where one has no program, or a program no entry."""
    clients = TypeAdapter(dict[str, Client]).validate_python(tomllib.loads(table.read_text()))
    programs = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES}
    for name, client in clients.items():
        if bool(client.pip) == bool(client.npm):
            raise BadTable(f"{name}: packages of pip or of npm, and not of both")
    named = [(session, name) for name, client in clients.items() for session in client.sessions]
    if differing := {session for session, _ in named} ^ set(programs):
        raise BadTable(f"in the table or the folder alone: {', '.join(sorted(differing))}")
    return [Session(session, programs[session], name, clients[name]) for session, name in named]
