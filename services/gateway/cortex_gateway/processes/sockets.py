"""The listening sockets of a gateway: those that a predecessor left, and new ones for what is missing.

Owns: how many there are of each address, and which worker has which. Called by: start.py, supervisor.py.

Each worker has sockets of its own on the one port (SO_REUSEPORT), so that the kernel spreads connections by their
addresses; from one socket for all, whoever wakes first takes a whole burst. A socket that was left is never closed
while its address is listened on: what waits in its queue would be reset. Where there are more of them than workers,
some workers have several, until a restart.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_gateway.config import address
from cortex_gateway.processes.predecessor import Predecessor
from cortex_serving.server import bind


@dataclass(frozen=True, slots=True)
class Sockets:
    """Of one process: for the API and for the metrics, at least one each."""

    api: list[socket.socket]
    metrics: list[socket.socket]

    def close(self) -> None:
        """Listen no more, as far as this process is concerned."""
        for each in (*self.api, *self.metrics):
            each.close()


def bound(settings: GatewaySettings, predecessor: Predecessor) -> list[Sockets]:
    """Those of each worker. Raises CannotListen."""
    api, metrics = (
        _bound(listen, settings.workers, predecessor.sockets(listen))
        for listen in (settings.listen, settings.metrics_listen)
    )
    predecessor.leave_unclaimed()
    count = settings.workers
    return [Sockets(api[number::count], metrics[number::count]) for number in range(count)]


def descriptors(settings: GatewaySettings, all_of_them: list[Sockets]) -> dict[str, list[int]]:
    """By address, for an Estate."""
    return {
        settings.listen: [each.fileno() for sockets in all_of_them for each in sockets.api],
        settings.metrics_listen: [each.fileno() for sockets in all_of_them for each in sockets.metrics],
    }


def _bound(listen: str, count: int, left: list[socket.socket]) -> list[socket.socket]:
    where = address(listen)
    if count == 1:
        return left or [bind(*where)]
    if not left:
        bind(*where).close()  # a shared socket would not notice another gateway on the port
    for each in left:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # a gateway of one process left one without
    return left + [bind(*where, shared=True) for _ in range(count - len(left))]
