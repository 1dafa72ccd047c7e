"""`cortex-gateway`: reads the command line and the files, then serves or only checks.

Owns: arguments and exit codes (0 fine, 1 cannot listen, 2 a file or argument is wrong). Imports little at the top: each
file that the role renders is checked by a process of its own.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Sequence

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_gateway import config


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
    import prometheus_client
    import uvloop

    from cortex_gateway import gateway
    from cortex_gateway.processes import supervisor
    from cortex_gateway.processes.workers import Worker
    from cortex_serving import logs, tracing
    from cortex_serving.server import CannotListen

    known = config.read(config_path, models_path, keys_path)
    tracing.check(known.settings.gateway.otlp_endpoint, f"{config_path}: gateway.otlp_endpoint")
    logs.configure()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which nobody reads

    started_with = known.settings.gateway

    def read_again() -> config.Config:
        return config.read(config_path, models_path, keys_path)

    def work(known: config.Config, worker: Worker, sockets: Sequence[socket.socket]) -> int:
        logs.configure(worker=worker.number)
        uvloop.run(gateway.serve(known, read_again, worker, sockets, started_with))
        return 0

    try:
        if known.settings.gateway.workers > 1:
            return supervisor.run(known, read_again, work)
        uvloop.run(gateway.serve(known, read_again))
    except CannotListen as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0
