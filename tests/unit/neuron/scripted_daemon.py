"""The real daemon with scripted_rank for an engine: `python scripted_daemon.py neuron.toml`."""

from __future__ import annotations

import sys

from cortex_neuron import configuration, daemon

if __name__ == "__main__":
    sys.exit(daemon.run(configuration.read(sys.argv[1]), "scripted_rank", preload="zmq"))
