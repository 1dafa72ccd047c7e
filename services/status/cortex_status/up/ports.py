"""Whether the addresses are free, said before anything starts and by the variable that names them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

from cortex_status.up.services import Listener, Service


def taken(services: Iterable[Service]) -> Iterator[str]:
    """A line for each address that cannot be listened on."""
    for service in services:
        for listener in service.listeners:
            fault = _fault(listener)
            if fault:
                yield f"host {service.host}: {listener.variable}: {listener.host}:{listener.port}: {fault}"


def _fault(listener: Listener) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the services do: TIME_WAIT is free
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None
