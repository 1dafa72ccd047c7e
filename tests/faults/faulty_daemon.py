"""The real daemon whose ranks may have a fault: `python faulty_daemon.py --config FILE --models FILE`."""

from __future__ import annotations

import sys

from cortex_neuron import daemon
from cortex_neuron.configuration import Files

if __name__ == "__main__":
    files = Files(*sys.argv[2::2])
    sys.exit(daemon.run(files.read(), files.read, "faulty_rank"))
