"""`cortex-gateway`: reads the command line and the files, then serves or only checks.

Owns: arguments and exit codes (0 fine, 1 cannot listen, 2 a file or argument is wrong).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

import prometheus_client
import uvloop

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_gateway import config, gateway
from cortex_gateway.processes import sockets, supervisor
from cortex_gateway.processes.handover import Handover
from cortex_gateway.processes.predecessor import CannotTakeOver, Predecessor
from cortex_gateway.processes.sockets import Sockets
from cortex_gateway.processes.workers import Worker, Workers
from cortex_serving import logs, tracing
from cortex_serving.server import CannotListen


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code is returned."""
    options = _parser().parse_args(arguments)
    checks: list[tuple[str, Callable[[str], object]]] = []
    if options.check_config:
        checks.append((options.check_config, config.read_settings))
    if options.check_models:
        checks.append((options.check_models, config.read_models))
    if options.check_keys:
        checks.append((options.check_keys, config.read_keys))
    try:
        return _check(checks) if checks else _serve(options.config, options.models, options.keys)
    except ConfigInvalid as invalid:
        print(invalid, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-gateway", description="One endpoint for the fleet's models.")
    parser.add_argument("--config", default="/etc/cortex/cortex.toml", help="default: %(default)s")
    parser.add_argument("--models", default="/etc/cortex/models.toml", help="default: %(default)s")
    parser.add_argument("--keys", metavar="FILE", help="without it nobody needs a key, and nobody is an operator")
    parser.add_argument("--check-config", metavar="FILE", help="check a cortex.toml and serve nothing")
    parser.add_argument("--check-models", metavar="FILE", help="check a models.toml and serve nothing")
    parser.add_argument("--check-keys", metavar="FILE", help="check a keys.toml and serve nothing")
    return parser


def _check(checks: list[tuple[str, Callable[[str], object]]]) -> int:
    found: list[str] = []
    for path, read in checks:
        try:
            read(path)
        except ConfigInvalid as invalid:
            found += invalid.problems
    if found:
        raise ConfigInvalid(found)
    print("ok")
    return 0


def _serve(config_path: str, models_path: str, keys_path: str | None) -> int:
    def read_again() -> config.Config:
        return config.read(config_path, models_path, keys_path)

    predecessor = Predecessor()
    try:
        predecessor = Predecessor.of(os.environ)
        known = read_again()
        tracing.check(known.settings.gateway.otlp_endpoint, f"{config_path}: gateway.otlp_endpoint")
        logs.configure()
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which nobody reads
        if known.settings.gateway.workers > 1:
            return supervisor.run(known, read_again, partial(_work, read_again), predecessor)
        uvloop.run(gateway.serve(known, read_again, _alone(known, predecessor)))
    except ConfigInvalid as invalid:
        predecessor.refuse(str(invalid))
        raise
    except (CannotListen, CannotTakeOver) as failure:
        predecessor.refuse(str(failure))
        print(failure, file=sys.stderr)
        return 1
    return 0


def _alone(known: config.Config, predecessor: Predecessor) -> gateway.Place:
    """The place of a gateway's only process."""
    settings, workers = known.settings.gateway, Workers()
    workers.draining = predecessor.draining
    bound = sockets.bound(settings, predecessor)
    handover = Handover(lambda: sockets.descriptors(settings, bound), lambda: workers.draining)
    return gateway.Place(workers.seat(0), bound[0], predecessor.serving, handover.finished, handover.give_up)


def _work(read_again: Callable[[], config.Config], known: config.Config, worker: Worker, own: Sockets) -> int:
    """What a worker does. That all serve, and that they are replaced, is between its supervisor and another."""
    logs.configure(worker=worker.number)

    async def replaced() -> bool:
        return True

    uvloop.run(gateway.serve(known, read_again, gateway.Place(worker, own, _nothing, replaced, _nothing)))
    return 0


def _nothing() -> None:
    pass
