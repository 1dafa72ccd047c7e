"""scripted_daemon whose signals reach no rank, as if the kernel held them: `python immortal_daemon.py neuron.toml`."""

from __future__ import annotations

import sys

from cortex_neuron import configuration, daemon
from cortex_neuron.group import rank_process

if __name__ == "__main__":
    rank_process._signal_group = lambda *_: None
    rank_process._UNKILLABLE_S = 0.5
    sys.exit(daemon.run(configuration.read(sys.argv[1]), "scripted_rank", preload="zmq"))
