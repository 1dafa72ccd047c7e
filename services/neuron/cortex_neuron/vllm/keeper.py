"""A process between the daemon and a vLLM server, so that the server ends with the daemon, however that ends.

Run as a file, by the daemon's Python and without its packages: `keeper.py COMMAND…`, in a session of its own, with a
pipe from the daemon for standard input. Owns: ending everything that the command has started, once the pipe closes or
the command ends; and ending itself as the command did. Called by: process.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_MS = 5000


def main(command: list[str]) -> int:
    """Run the command until it ends, or until nobody holds the pipe's other end; its exit code."""
    # Whoever loses its parent becomes ours, also one that has left the process group.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A handler, not SIG_IGN, which the server would inherit: the signal is for the group, and the server decides.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as failure:
        print(f"{command[0]}: {failure.strerror}", file=sys.stderr)  # noqa: T201  this is the server's log
        return 127
    ended, poll = os.pidfd_open(server.pid), select.poll()
    poll.register(0, select.POLLHUP)
    poll.register(ended, select.POLLIN)
    if any(descriptor == 0 for descriptor, _ in poll.poll()):
        poll.unregister(0)
        os.killpg(0, signal.SIGTERM)  # it gives shared memory back, which nobody else would
        poll.poll(_GRACE_MS)
        server.kill()
    code = server.wait()
    _end_the_rest()
    return code


def _end_the_rest() -> None:
    """Kill our children until there are none: the children of one that has ended are ours next."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, children):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _end_alike(code: int) -> None:
    """Exit with the code, or by the signal."""
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to take back
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    _end_alike(main(sys.argv[1:]))
