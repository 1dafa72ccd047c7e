"""Asks every gateway and neuron what it is doing, all at once.

Owns: the requests and their deadlines; one connection a host, its endpoints one after the other, so that a fleet of
hundreds stays within a shell's limit of open files. Does not own: what the answers mean. Called by: command.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from pydantic import TypeAdapter, ValidationError

from cortex_contracts.inventory.fleet import Fleet, GatewayHost, NeuronHost
from cortex_contracts.wire.neuron import Discovery, Health, ModelRow, VersionAnswer
from cortex_status.fleet_status.addresses import catalogue_key, gateway_url
from cortex_status.fleet_status.observed import (
    Catalogue,
    GatewayHealth,
    GatewaySeen,
    GatewayVersion,
    NeuronSeen,
    Observed,
    Problem,
    Silence,
)

# By field of NeuronSeen and GatewaySeen. What matters most is asked first: a deadline may cut the rest.
NEURON_ENDPOINTS: dict[str, tuple[str, TypeAdapter[Any]]] = {
    "health": ("/health", TypeAdapter(Health)),
    "models": ("/models", TypeAdapter(list[ModelRow])),
    "discovery": ("/discovery", TypeAdapter(Discovery)),
    "version_answer": ("/version", TypeAdapter(VersionAnswer)),
}
GATEWAY_ENDPOINTS: dict[str, tuple[str, TypeAdapter[Any]]] = {
    "health": ("/health", TypeAdapter(GatewayHealth)),
    "catalogue": ("/v1/models", TypeAdapter(Catalogue)),
    "version_answer": ("/version", TypeAdapter(GatewayVersion)),
}
ANSWER_LIMIT = 16 * 2**20  # bytes; a catalogue of thousands of models is far below it


async def ask(fleet: Fleet, timeout_s: float) -> Observed:
    """What every host of the fleet says within `timeout_s`; a host that says nothing has the reason instead."""
    # Names are resolved in threads. The default is a few of them: as many slow names would delay every other host.
    resolvers = ThreadPoolExecutor(max_workers=max(1, len(fleet.gateways) + len(fleet.neurons)))
    asyncio.get_running_loop().set_default_executor(resolvers)
    connector, no_timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout()  # the deadline of a host is ours
    async with aiohttp.ClientSession(connector=connector, timeout=no_timeout) as session:
        gateways = asyncio.gather(*(_gateway(session, gateway, timeout_s) for gateway in fleet.gateways))
        neurons = asyncio.gather(*(_neuron(session, neuron, timeout_s) for neuron in fleet.neurons))
        return Observed(gateways=await gateways, neurons=await neurons)


async def _gateway(session: aiohttp.ClientSession, gateway: GatewayHost, timeout_s: float) -> GatewaySeen:
    url = gateway_url(gateway)
    key = catalogue_key(gateway)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    parts, problems = await _answers(session, url, GATEWAY_ENDPOINTS, timeout_s, headers)
    return GatewaySeen(name=gateway.name, url=url, problems=problems, **parts)


async def _neuron(session: aiohttp.ClientSession, neuron: NeuronHost, timeout_s: float) -> NeuronSeen:
    parts, problems = await _answers(session, neuron.url, NEURON_ENDPOINTS, timeout_s, {})
    return NeuronSeen(name=neuron.name, url=neuron.url, problems=problems, **parts)


async def _answers(
    session: aiohttp.ClientSession,
    url: str,
    endpoints: dict[str, tuple[str, TypeAdapter[Any]]],
    timeout_s: float,
    headers: dict[str, str],
) -> tuple[dict[str, Any], list[Problem]]:
    """The answers of one host by field, and a problem for each that did not come.

    A host that cannot be reached is not asked further: it would say the same again.
    """
    parts: dict[str, Any] = {}
    problems: list[Problem] = []
    endpoint = ""
    try:
        async with asyncio.timeout(timeout_s):
            for field, (endpoint, shape) in endpoints.items():
                try:
                    parts[field] = shape.validate_json(await _body(session, url + endpoint, headers))
                except (_Unusable, ValidationError, aiohttp.ClientPayloadError) as error:
                    problems.append(_problem(Silence.BAD_ANSWER, endpoint, error))
    except TimeoutError:
        message = f"no answer within {timeout_s:g} s"
        problems.append(Problem(reason=Silence.TIMED_OUT, endpoint=endpoint, message=message))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        problems.append(_problem(_silence(error), endpoint, error))
    return parts, problems


class _Unusable(Exception):
    """An answer whose body is not worth reading."""


async def _body(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> bytes:
    async with session.get(url, headers=headers, allow_redirects=False) as answer:
        # A gateway that is drained says how it is with 503, for load balancers.
        drained = answer.status == 503 and url.endswith("/health") and answer.content_type == "application/json"
        if answer.status != 200 and not drained:
            raise _Unusable(f"HTTP status {answer.status}")
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > ANSWER_LIMIT:
                raise _Unusable(f"more than {ANSWER_LIMIT} bytes")
        return bytes(body)


def _silence(error: Exception) -> Silence:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return Silence.REFUSED
    if isinstance(error, aiohttp.ClientConnectionError | OSError | ValueError):  # the last: an address that is none
        return Silence.UNREACHABLE
    return Silence.BAD_ANSWER  # such as what is no HTTP at all


def _problem(reason: Silence, endpoint: str, error: Exception) -> Problem:
    return Problem(reason=reason, endpoint=endpoint, message=" ".join(_words(error).split()))


def _words(error: Exception) -> str:
    """What an error says, without the request's particulars that the libraries put around it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{error.host}: {error.os_error.strerror}"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno)
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message
    return str(error) or type(error).__name__
