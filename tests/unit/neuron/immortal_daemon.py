"""scripted_daemon, with its arguments, whose signals reach no rank, as if the kernel held them."""

from __future__ import annotations

import sys

from cortex_neuron import daemon
from cortex_neuron.configuration import Files
from cortex_neuron.group import rank_process

if __name__ == "__main__":
    rank_process._signal_group = lambda *_: None
    rank_process._UNKILLABLE_S = 0.5
    files = Files(*sys.argv[2::2])
    sys.exit(daemon.run(files.read(), files.read, "scripted_rank", preload="zmq"))
