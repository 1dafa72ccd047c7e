"""A process between the daemon and a vLLM server, so that the server ends with the daemon, however that ends.

Run as a file, by the daemon's Python and without its packages: `keeper.py REPORT COMMAND…`, in a session of its own,
with a pipe from the daemon for standard input. Owns: telling at the descriptor REPORT how the command ended, as soon as
it has, and ending all that it has started, once it ends or the daemon's pipe closes. Called by: process.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_MS = 5000  # for a server whose daemon is gone
_REST_S = 2.0  # for what a server leaves: its engines
_TRACKER_S = 1.5  # more for who gives its shared memory back, which nobody else does


def main(report: int, command: list[str]) -> None:
    """Run the command until it ends, or until nobody holds the pipe's other end."""
    # Whoever loses its parent becomes ours, also one that has left the process group.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A handler, not SIG_IGN, which the server would inherit: the signal is for the group, and the server decides.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as failure:
        print(f"{command[0]}: {failure.strerror}", file=sys.stderr)  # noqa: T201  this is the server's log
        os.write(report, b"127")
        return
    ended, poll = os.pidfd_open(server.pid), select.poll()
    poll.register(0, select.POLLHUP)
    poll.register(ended, select.POLLIN)
    if any(descriptor == 0 for descriptor, _ in poll.poll()):
        poll.unregister(0)
        os.killpg(0, signal.SIGTERM)
        poll.poll(_GRACE_MS)
        server.kill()
    code = server.wait()
    with contextlib.suppress(OSError):  # nobody may be there to read it
        os.write(report, str(code).encode())
    os.killpg(0, signal.SIGTERM)
    _end_the_rest(time.monotonic() + _REST_S)


def _end_the_rest(until: float) -> None:
    """Wait for our children, then kill them, until there are none: those of one that has ended are ours next."""
    while children := _children():
        late_s = time.monotonic() - until
        for pid in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if late_s > (_TRACKER_S if _is_tracker(pid) else 0.0):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _is_tracker(pid: int) -> bool:
    """Python's own process that gives back shared memory, once all who use it have ended."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
