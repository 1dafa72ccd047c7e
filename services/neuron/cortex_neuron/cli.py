"""The `cortex-neuron` command: read neuron.toml, check it, run the daemon; or examine this host (`doctor`), or fetch
the files of models (`fetch`).

Owns: arguments and exit codes (2: the configuration cannot be used). Imports little at the top: children of the
fork server import this module again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cortex_neuron.doctor import options
from cortex_neuron.fetch import options as fetch_options

DEFAULT_CONFIG = "/etc/neuron/neuron.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon, or with --check-config judge a file: its problems, all of them, and exit 2, or `ok` and 0."""
    chosen = _parser().parse_args(arguments)
    config = chosen.config or DEFAULT_CONFIG
    if chosen.command == "doctor":
        return _doctor(chosen)
    if chosen.command == "fetch":
        return _fetch(chosen, config)
    from cortex_contracts.inventory.files import ConfigInvalid
    from cortex_neuron import configuration
    from cortex_serving import tracing

    try:
        file = configuration.read(chosen.check_config or config)
        if not chosen.check_config:
            tracing.check(file.neuron.otlp_endpoint, f"{config}: neuron.otlp_endpoint")
    except ConfigInvalid as invalid:
        print("\n".join(invalid.problems), file=sys.stderr)
        return 2
    if chosen.check_config:
        print("ok")
        return 0
    from cortex_neuron import daemon

    return daemon.run(file)


def _doctor(chosen: argparse.Namespace) -> int:
    try:
        from cortex_neuron.doctor import command
    except ModuleNotFoundError as missing:
        print(f"what a neuron needs is not installed here ({missing}): install cortex[neuron]", file=sys.stderr)
        return options.UNUSABLE
    except KeyboardInterrupt:
        return options.INTERRUPTED
    return command.run(chosen, chosen.config)


def _fetch(chosen: argparse.Namespace, config: str) -> int:
    try:
        from cortex_neuron.fetch import command
    except ModuleNotFoundError as missing:
        print(f"what a neuron needs is not installed here ({missing}): install cortex[neuron]", file=sys.stderr)
        return fetch_options.UNUSABLE
    except KeyboardInterrupt:
        return fetch_options.INTERRUPTED
    return command.run(chosen, config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-neuron", description="Serve models from this host's devices.")
    parser.add_argument("--config", metavar="FILE", help=f"the neuron's file (default: {DEFAULT_CONFIG})")
    parser.add_argument("--check-config", metavar="FILE", help="check FILE, say what is wrong with it, and exit")
    commands = parser.add_subparsers(dest="command", metavar="[doctor | fetch]")
    options.add_to(commands)
    fetch_options.add_to(commands)
    return parser
