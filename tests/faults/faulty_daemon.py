"""The real daemon whose ranks may have a fault: `python faulty_daemon.py neuron.toml`."""

from __future__ import annotations

import sys

from cortex_neuron import configuration, daemon

if __name__ == "__main__":
    sys.exit(daemon.run(configuration.read(sys.argv[1]), "faulty_rank"))
