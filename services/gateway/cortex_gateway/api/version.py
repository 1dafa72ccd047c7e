"""GET /version: the program and the files that this gateway runs with, whichever of its workers is asked.

Owns: when the workers' word counts as the gateway's. Does not own: the digests (config.py). Called by: api/routes.py,
gateway.py (lay_out).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from pydantic import BaseModel, TypeAdapter
from sanic import HTTPResponse, Request

from cortex_contracts.wire.gateway import GatewayVersion
from cortex_gateway.api.answers import json_answer
from cortex_gateway.config import awaiting_a_restart
from cortex_gateway.state import State
from cortex_serving import provenance

# Of what was imported: what lies on the disk may be of a newer installation when somebody asks.
VERSION, RELEASE = version("cortex"), provenance.release()
_PAGE = "version"


class RunsWith(BaseModel):
    """What one worker has taken up, as the others read it."""

    files: dict[str, str]
    awaits_restart: list[str]


_READER = TypeAdapter(RunsWith)


class VersionPage:
    """The handler."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, _request: Request) -> HTTPResponse:
        worker = self._state.worker
        said = [_own(self._state), *map(_READER.validate_json, worker.others(_PAGE))]
        return json_answer(agreed(said, worker.all.count))


def lay_out(state: State) -> None:
    """Tell the other workers of this gateway what this one runs with."""
    state.worker.lay_out(_PAGE, _READER.dump_json(_own(state)))


def agreed(said: Sequence[RunsWith], workers: int) -> GatewayVersion:
    """What of it holds for the gateway: a digest that every one of its workers has. Pure."""
    complete = len(said) == workers
    names = sorted({name for each in said for name in each.files})
    return GatewayVersion(
        version=VERSION,
        release=RELEASE,
        files={name: _one([each.files.get(name) for each in said]) if complete else None for name in names},
        awaits_restart=sorted({key for each in said for key in each.awaits_restart}),
    )


def _one(digests: Sequence[str | None]) -> str | None:
    return digests[0] if len(set(digests)) == 1 else None


def _own(state: State) -> RunsWith:
    awaits_restart = awaiting_a_restart(state.started_with, state.config.settings.gateway)
    return RunsWith(files=dict(state.config.files), awaits_restart=awaits_restart)
