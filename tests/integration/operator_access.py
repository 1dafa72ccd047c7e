"""A gateway with an admin key, and its operator API as its clients ask it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway_process import RunningGateway, running
from scripted_neuron import ScriptedNeuron

ADMIN_KEY = "an-admin-key-for-tests"
CLIENT_KEY = "a-clients-key-for-tests"
AS_ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@asynccontextmanager
async def operated(
    folder: Path, neurons: list[ScriptedNeuron], models: list[dict[str, Any]], **settings: Any
) -> AsyncIterator[RunningGateway]:
    """A running gateway that has an admin key, and a key of a client who is no operator."""
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in (ADMIN_KEY, CLIENT_KEY)]
    keys = ['anonymous = "allow"', f'admin_sha256 = "{digests[0]}"', "[[keys]]", 'name = "client"']
    (folder / "keys.toml").write_text("\n".join([*keys, f'sha256 = "{digests[1]}"']))
    async with running(folder, neurons, models, **settings) as gateway:
        yield gateway


async def see(gateway: RunningGateway, path: str) -> dict[str, Any]:
    """The answer of GET /fleet/…, as the operator."""
    found: dict[str, Any] = await gateway.get(f"/fleet/{path}", **AS_ADMIN)
    return found


async def tell(gateway: RunningGateway, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """Status and answer of POST /fleet/…, as the operator; of an error its inner object."""
    async with gateway.http.post(f"{gateway.url}/fleet/{path}", json=body, headers=AS_ADMIN) as response:
        answer = await response.json()
        if response.status == 503:
            assert int(response.headers["retry-after"]) > 0
        return response.status, answer.get("error", answer)
