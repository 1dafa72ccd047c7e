"""`cortex doctor`: the neuron's own program, which can look at this host's devices, in the place of this one.

Owns: finding it. Does not own: its options, its words and its exit code. Called by: cortex_status.cli.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "cortex-neuron"
UNUSABLE = 2


def run(arguments: Sequence[str]) -> int:
    """Become it, so that signals and the exit code need no passing on. Returns where it is not installed."""
    folders = list(dict.fromkeys([Path(sys.argv[0]).resolve().parent, Path(sys.executable).parent]))
    for program in (folder / PROGRAM for folder in folders):
        if program.is_file() and os.access(program, os.X_OK):
            sys.stdout.flush()
            os.execv(program, [str(program), "doctor", *arguments])  # noqa: S606  there is no shell to need
    where = " or ".join(map(str, folders))
    print(f"{PROGRAM} is not in {where}: cortex doctor examines the host it is run on, a neuron", file=sys.stderr)
    return UNUSABLE
