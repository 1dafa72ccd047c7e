"""The first function a rank's process runs.

Owns: separating the process from the daemon's terminal and ending it with the daemon. Runs in a child of the fork
server, so it imports nothing heavy itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading


def run_rank(module: str, address: str, rank: int, world_size: int) -> None:
    """Import `module` and run its `main(address, rank, world_size)`; the process ends when that returns."""
    os.setsid()  # Ctrl-C in the daemon's terminal is the daemon's to handle; and the group can be killed as one
    threading.Thread(target=_end_with_daemon, name="daemon-watch", daemon=True).start()
    importlib.import_module(module).main(address, rank, world_size)


def _end_with_daemon() -> None:
    """A daemon that was killed with -9 must not leave a process holding its memory."""
    daemon = multiprocessing.parent_process()
    assert daemon is not None
    daemon.join()
    os._exit(1)
