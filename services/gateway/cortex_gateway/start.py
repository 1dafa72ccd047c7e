"""From the files to a process that serves, or to a supervisor of several; perhaps in the place of one that serves.

Owns: the order, what is said where it cannot be, the exit code. Called by: cli.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

import prometheus_client
import uvloop

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_gateway.config import Config
from cortex_gateway.gateway import Place, serve
from cortex_gateway.processes import sockets, supervisor
from cortex_gateway.processes.handover import Handover
from cortex_gateway.processes.predecessor import CannotTakeOver, Predecessor
from cortex_gateway.processes.sockets import Sockets
from cortex_gateway.processes.workers import Worker, Workers
from cortex_serving import logs, tracing
from cortex_serving.server import CannotListen


def run(read_again: Callable[[], Config], config_path: str) -> int:
    """Serve until told to stop; 1 where that cannot be. Raises ConfigInvalid."""
    predecessor = Predecessor()
    try:
        predecessor = Predecessor.of(os.environ)
        known = read_again()
        settings = known.settings.gateway
        tracing.check(settings.otlp_endpoint, f"{config_path}: gateway.otlp_endpoint")
        logs.configure()
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which nobody reads
        if settings.workers > 1:
            return supervisor.run(known, read_again, partial(_work, read_again, settings), predecessor)
        uvloop.run(serve(known, read_again, _alone(known, predecessor)))
    except ConfigInvalid as invalid:
        predecessor.refuse(str(invalid))
        raise
    except (CannotListen, CannotTakeOver) as failure:
        predecessor.refuse(str(failure))
        print(failure, file=sys.stderr)  # noqa: T201  of a command line
        return 1
    return 0


def _alone(known: Config, predecessor: Predecessor) -> Place:
    """The place of a gateway's only process."""
    settings, workers = known.settings.gateway, Workers()
    workers.draining = predecessor.draining
    bound = sockets.bound(settings, predecessor)
    handover = Handover(lambda: sockets.descriptors(settings, bound), lambda: workers.draining)
    return Place(
        workers.seat(0), bound[0], predecessor.serving, handover.finished, handover.give_up, started_with=settings
    )


def _work(
    read_again: Callable[[], Config], started_with: GatewaySettings, known: Config, worker: Worker, own: Sockets
) -> int:
    """What a worker does. That all serve, and that they are replaced, is between its supervisor and another."""
    logs.configure(worker=worker.number)

    async def replaced() -> bool:
        return True

    uvloop.run(serve(known, read_again, Place(worker, own, _nothing, replaced, _nothing, started_with)))
    return 0


def _nothing() -> None:
    pass
