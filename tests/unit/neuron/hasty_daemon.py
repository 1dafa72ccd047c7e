"""scripted_daemon, with its arguments, that starts a model again after a tenth of the time."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # In here, as in scripted_daemon.
    from cortex_neuron import daemon, fork_source
    from cortex_neuron.configuration import Files
    from cortex_neuron.residency import recovery

    recovery._BACK_OFF_S = tuple(seconds / 10 for seconds in recovery._BACK_OFF_S)
    files = Files(*sys.argv[2::2])
    known = files.read()
    source = fork_source.begin(known, preload="cortex_neuron.protocol.channel")
    sys.exit(daemon.run(known, files.read, source, "scripted_rank"))
