"""The fork server that all ranks come from: multiprocessing's own, started, asked for processes, ended.

Owns: that it is started and ended once, and that one thread at a time deals with its children. Does not own: what a
rank does (entry) or what becomes of it (rank_process). Called by: rank_process, fork_source, doctor. Imports little: a
daemon starts it before its own modules are there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# multiprocessing looks at all of its children whenever one starts; two threads that read one exit code lose it.
_CHILDREN = threading.Lock()
_stopped = False  # a start that comes late would make another fork server, which nobody ends


def start_fork_server(preload: str) -> None:
    """Start the fork server; it imports `preload` while the daemon goes on, and inherits this environment."""
    global _stopped
    _stopped = False
    _CONTEXT.set_forkserver_preload([preload])
    forkserver.ensure_running()


def stop_fork_server() -> None:
    """End the fork server, if there is one, and wait for it. Every rank must have ended."""
    # By itself it would end some time after the daemon, once it has imported torch, or is done with finalising it.
    global _stopped
    server: Any = forkserver._forkserver
    with _CHILDREN:
        _stopped = True
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


def process(target: Callable[..., None], arguments: tuple[Any, ...], name: str) -> ForkServerProcess:
    """One that is not started yet."""
    return _CONTEXT.Process(target=target, args=arguments, name=name, daemon=True)


def start(process: ForkServerProcess) -> None:
    """Waits until the fork server has imported what it is to. Raises OSError, EOFError."""
    with _CHILDREN:
        if _stopped:
            raise OSError("the fork server has been stopped")
        process.start()


def exit_code(process: ForkServerProcess) -> int:
    """Of one that has ended; nothing of it is left."""
    with _CHILDREN:
        process.join()
        code = process.exitcode
        process.close()
    assert code is not None
    return code
