"""The `cortex-neuron` command: read its files, check them, run the daemon; or examine this host (`doctor`), or fetch
the files of models (`fetch`).

Owns: arguments and exit codes (2: the configuration cannot be used). Imports little at the top: children of the
fork server import this module again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from cortex_neuron.doctor import options
from cortex_neuron.fetch import options as fetch_options
from cortex_serving.lasting import lasting_imports

DEFAULT_CONFIG = "/etc/neuron/neuron.toml"
DEFAULT_MODELS = "/etc/neuron/models.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon, or with --check-… judge files: their problems, all of them, and exit 2, or `ok` and 0."""
    chosen = _parser().parse_args(arguments)
    if chosen.command is not None:
        return _by_hand(chosen)
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
    from cortex_contracts.inventory.files import judge
    from cortex_neuron import configuration

    chosen = ((config, configuration.read_settings), (models, configuration.read_models))
    judge((path, read) for path, read in chosen if path)
    print("ok")
    return 0


def _serve(config: str, models: str) -> int:
    """Raises ConfigInvalid before anything is started."""
    # A reload that is asked for before there is somebody to do it waits, where it would end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with lasting_imports():
        from cortex_neuron import fork_source
        from cortex_neuron.configuration import Files
        from cortex_serving import tracing

        files = Files(config, models)
        known = files.read()
        tracing.check(known.settings.otlp_endpoint, f"{config}: neuron.otlp_endpoint")
        begun = fork_source.begin(known)
        from cortex_neuron import daemon  # beside what engines are forked from, which takes longer

    return daemon.run(known, files.read, begun)


def _by_hand(chosen: argparse.Namespace) -> int:
    """A command that somebody types, perhaps where a neuron is not installed whole."""
    run: Callable[[], int]
    try:
        if chosen.command == "doctor":
            from cortex_neuron.doctor import command as doctor

            run = partial(doctor.run, chosen, chosen.config)
        else:
            from cortex_neuron.fetch import command as fetch

            run = partial(fetch.run, chosen, chosen.config or DEFAULT_CONFIG, chosen.models)
    except ModuleNotFoundError as missing:
        print(f"what a neuron needs is not installed here ({missing}): install cortex[neuron]", file=sys.stderr)
        return options.UNUSABLE
    except KeyboardInterrupt:
        return options.INTERRUPTED
    return run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-neuron", description="Serve models from this host's devices.")
    parser.add_argument("--config", metavar="FILE", help=f"the neuron's file (default: {DEFAULT_CONFIG})")
    parser.add_argument("--models", metavar="FILE", default=DEFAULT_MODELS, help="the catalogue (default: %(default)s)")
    parser.add_argument("--check-config", metavar="FILE", help="check a neuron.toml, say what is wrong, and exit")
    parser.add_argument("--check-models", metavar="FILE", help="check a models.toml, say what is wrong, and exit")
    commands = parser.add_subparsers(dest="command", metavar="[doctor | fetch]")
    options.add_to(commands)
    fetch_options.add_to(commands)
    return parser
