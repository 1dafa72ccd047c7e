"""The `cortex-neuron` command: read neuron.toml, check it, run the daemon.

Owns: arguments and exit codes (2: the configuration cannot be used). Imports little at the top: children of the
fork server import this module again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon, or with --check-config judge a file: its problems, all of them, and exit 2, or `ok` and 0."""
    chosen = _parser().parse_args(arguments)
    from cortex_contracts.inventory.files import ConfigInvalid
    from cortex_neuron import configuration
    from cortex_serving import tracing

    try:
        config = configuration.read(chosen.check_config or chosen.config)
        if not chosen.check_config:
            tracing.check(config.neuron.otlp_endpoint, f"{chosen.config}: neuron.otlp_endpoint")
    except ConfigInvalid as invalid:
        print("\n".join(invalid.problems), file=sys.stderr)
        return 2
    if chosen.check_config:
        print("ok")
        return 0
    from cortex_neuron import daemon

    return daemon.run(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-neuron", description="Serve models from this host's devices.")
    parser.add_argument("--config", default="/etc/neuron/neuron.toml", help="the neuron's file (default: %(default)s)")
    parser.add_argument("--check-config", metavar="FILE", help="check FILE, say what is wrong with it, and exit")
    return parser
