"""The `cortex-neuron` command: read its files, check them, run the daemon; or examine this host (`doctor`).

Owns: arguments and exit codes (2: the configuration cannot be used). Imports little at the top: children of the
fork server import this module again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cortex_neuron.doctor import options

DEFAULT_CONFIG = "/etc/neuron/neuron.toml"
DEFAULT_MODELS = "/etc/neuron/models.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon, or with --check-… judge files: their problems, all of them, and exit 2, or `ok` and 0."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "doctor":
        return _doctor(chosen)
    from cortex_contracts.inventory.files import ConfigInvalid

    try:
        if chosen.check_config or chosen.check_models:
            return _check(chosen.check_config, chosen.check_models)
        return _serve(chosen.config or DEFAULT_CONFIG, chosen.models)
    except ConfigInvalid as invalid:
        print(invalid, file=sys.stderr)
        return 2


def _check(config: str | None, models: str | None) -> int:
    """Raises ConfigInvalid with the problems of all files that are given."""
    from cortex_contracts.inventory.files import ConfigInvalid
    from cortex_neuron import configuration

    found: list[str] = []
    for path, read in ((config, configuration.read_settings), (models, configuration.read_models)):
        try:
            if path:
                read(path)
        except ConfigInvalid as invalid:
            found += invalid.problems
    if found:
        raise ConfigInvalid(found)
    print("ok")
    return 0


def _serve(config: str, models: str) -> int:
    """Raises ConfigInvalid before anything is started."""
    from cortex_neuron.configuration import Files
    from cortex_serving import tracing

    files = Files(config, models)
    known = files.read()
    tracing.check(known.settings.otlp_endpoint, f"{config}: neuron.otlp_endpoint")
    from cortex_neuron import daemon

    return daemon.run(known, files.read)


def _doctor(chosen: argparse.Namespace) -> int:
    try:
        from cortex_neuron.doctor import command
    except ModuleNotFoundError as missing:
        print(f"what a neuron needs is not installed here ({missing}): install cortex[neuron]", file=sys.stderr)
        return options.UNUSABLE
    except KeyboardInterrupt:
        return options.INTERRUPTED
    return command.run(chosen, chosen.config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-neuron", description="Serve models from this host's devices.")
    parser.add_argument("--config", metavar="FILE", help=f"the neuron's file (default: {DEFAULT_CONFIG})")
    parser.add_argument("--models", metavar="FILE", default=DEFAULT_MODELS, help="the catalogue (default: %(default)s)")
    parser.add_argument("--check-config", metavar="FILE", help="check a neuron.toml, say what is wrong, and exit")
    parser.add_argument("--check-models", metavar="FILE", help="check a models.toml, say what is wrong, and exit")
    options.add_to(parser.add_subparsers(dest="command", metavar="[doctor]"))
    return parser
