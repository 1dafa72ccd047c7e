"""When the services are ready, asked of the services themselves.

Owns: the polling, its deadlines and the progress it tells. Does not own: processes (children.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp
from pydantic import TypeAdapter

from cortex_contracts.wire.gateway import GatewayHealth
from cortex_contracts.wire.neuron import Health, ModelRow, ModelStatus, NeuronState
from cortex_status.progress import Progress
from cortex_status.up.failures import UpFailed
from cortex_status.up.services import NeuronService, Service

POLL_S = 0.1
ASK_TIMEOUT = aiohttp.ClientTimeout(total=2)
ANSWER_TIMEOUT_S = 60.0  # to the first answer; imports on a cold disk take most of it
MODEL_ROWS = TypeAdapter(list[ModelRow])


async def wait_for(service: Service, neurons: Sequence[str], progress: Progress) -> None:
    """Until the service is ready. Raises UpFailed.

    A neuron is when it has loaded what it loads by itself, a gateway when it has heard from these `neurons`: it was
    started beside them, and may have given up on one that was busy starting.
    """
    progress.stage(f"waiting for {service.program}")
    async with aiohttp.ClientSession(timeout=ASK_TIMEOUT) as session:
        body = await _answer(session, service)
        if isinstance(service, NeuronService):
            await _loaded(session, service, Health.model_validate_json(body), progress)
        else:
            await _reached(session, service, GatewayHealth.model_validate_json(body), neurons)


async def _answer(session: aiohttp.ClientSession, service: Service) -> bytes:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while time.monotonic() < deadline:
        body = await _get(session, f"{service.url}/health")
        if body is not None:
            return body
        await asyncio.sleep(POLL_S)
    raise UpFailed(
        f"{service.title} did not answer {service.url}/health in {ANSWER_TIMEOUT_S:.0f} s; see {service.log}"
    )


async def _loaded(session: aiohttp.ClientSession, service: NeuronService, health: Health, progress: Progress) -> None:
    deadline = time.monotonic() + service.load_timeout_s
    while health.state == NeuronState.ACTIVATING:
        if time.monotonic() > deadline:
            waiting = sorted(set(health.activation.wanted) - set(health.activation.loaded))
            raise UpFailed(f"{service.title} has not loaded {', '.join(waiting)} in {service.load_timeout_s:.0f} s")
        for row in await _models(session, service):
            _tell(row, progress)
        await asyncio.sleep(POLL_S)
        body = await _get(session, f"{service.url}/health")
        health = health if body is None else Health.model_validate_json(body)
    if health.activation.failed:
        rows = await _models(session, service)
        reasons = {row.id: row.failure.message for row in rows if row.failure}
        lines = (f"{id_}: {reasons.get(id_, 'for no reason given')}" for id_ in health.activation.failed)
        raise UpFailed("\n".join([f"{service.title} could not load", *lines, f"see {service.log}"]))


async def _reached(
    session: aiohttp.ClientSession, service: Service, health: GatewayHealth, neurons: Sequence[str]
) -> None:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while missing := sorted(set(neurons) - {seen.name for seen in health.neurons if seen.healthy}):
        if time.monotonic() > deadline:
            raise UpFailed(
                f"{service.title} has not reached neuron {', '.join(missing)} in {ANSWER_TIMEOUT_S:.0f} s; "
                f"see {service.log}"
            )
        await asyncio.sleep(POLL_S)
        body = await _get(session, f"{service.url}/health")
        health = health if body is None else GatewayHealth.model_validate_json(body)


def _tell(row: ModelRow, progress: Progress) -> None:
    if row.status == ModelStatus.LOADING:
        detail = f"{row.progress.phase} {row.progress.fraction:.0%}" if row.progress else ""
        progress.stage(f"loading {row.id}", detail)
    elif row.status == ModelStatus.PENDING:
        progress.stage(f"{row.id} is not there yet: {row.failure.message if row.failure else 'it is tried again'}")


async def _models(session: aiohttp.ClientSession, service: Service) -> list[ModelRow]:
    body = await _get(session, f"{service.url}/models")
    return [] if body is None else MODEL_ROWS.validate_json(body)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes | None:
    """The answer's body; none while there is no good answer, which is what waiting is for."""
    try:
        async with session.get(url) as response:
            body = await response.read()
            return body if response.status == HTTPStatus.OK else None
    except (aiohttp.ClientError, TimeoutError):
        return None
