"""The real daemon with scripted_rank for an engine: `python scripted_daemon.py --config FILE --models FILE`."""

from __future__ import annotations

import sys

from cortex_neuron import daemon, fork_source
from cortex_neuron.configuration import Files

if __name__ == "__main__":
    files = Files(*sys.argv[2::2])
    known = files.read()
    sys.exit(daemon.run(known, files.read, fork_source.begin(known, preload="zmq"), "scripted_rank"))
