"""The real daemon whose ranks may have a fault: `python faulty_daemon.py --config FILE --models FILE`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # What is imported above, each rank's process imports again: half a second for the daemon's modules.
    from cortex_neuron import daemon, fork_source
    from cortex_neuron.configuration import Files

    files = Files(*sys.argv[2::2])
    known = files.read()
    sys.exit(daemon.run(known, files.read, fork_source.begin(known), "faulty_rank"))
