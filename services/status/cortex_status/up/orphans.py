"""Processes that a killed service left behind: they become ours, and are ended.

Owns: the kernel's subreaper flag and the search of /proc. Why: an engine process has a session of its own, so the
signal to its daemon's group does not reach it, and a daemon that had to be killed can no longer end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 2.0  # helpers of multiprocessing end by themselves once their pipe closes
POLL_S = 0.02


def adopt() -> None:
    """From now on a descendant whose parent dies becomes our child, instead of init's."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def end(known: Collection[int]) -> None:
    """End every child of ours that is not known, and what they leave in turn: after a grace, with SIGKILL."""
    deadline = time.monotonic() + GRACE_S
    while orphans := _children() - set(known):
        for pid in orphans:
            _reap(pid, kill=time.monotonic() > deadline)
        await asyncio.sleep(POLL_S)


def _reap(pid: int, *, kill: bool) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if kill:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)


def _children() -> set[int]:
    own = str(os.getpid())
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (any name) state ppid …", and the name may hold spaces and parentheses
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if parent == own:
                found.add(int(stat.parent.name))
    return found
