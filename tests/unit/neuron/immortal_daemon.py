"""scripted_daemon, with its arguments, whose signals reach no rank, as if the kernel held them."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # In here, as in scripted_daemon.
    from cortex_neuron import daemon, fork_source
    from cortex_neuron.configuration import Files
    from cortex_neuron.group import rank_process

    rank_process._signal_group = lambda *_: None
    rank_process._UNKILLABLE_S = 0.5
    files = Files(*sys.argv[2::2])
    known = files.read()
    source = fork_source.begin(known, preload="cortex_neuron.protocol.channel")
    sys.exit(daemon.run(known, files.read, source, "scripted_rank"))
