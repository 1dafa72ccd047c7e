"""What a service tells its service manager, systemd's way (sd_notify): that it serves, and which process it is now.

Owns: the words and the socket they go to. Does not own: when they are said. Where no manager listens, nothing is said.
Called by: the gateway's cli and processes.
"""

from __future__ import annotations

import os
import select
import socket

from cortex_serving import logs

_TAKEN_UP_S = 30.0


def ready() -> None:
    """The service serves (Type=notify)."""
    _tell(b"READY=1")


def main_pid(pid: int) -> None:
    """The service is process `pid` from now on; returns when the manager knows it, so that the caller may end.

    To be said by the process that the service was: with NotifyAccess=main nobody else is heard. Were it to end before
    that is taken up, the manager would take its end for the service's, and kill what is left.
    """
    if _tell(f"MAINPID={pid}".encode()) and not _all_is_taken_up():
        logs.error("service_manager_silent", waited_s=_TAKEN_UP_S)


def _all_is_taken_up() -> bool:
    """Whether the manager has read all that was said before: it closes what comes with a BARRIER once it gets there."""
    ours, its = os.pipe()
    try:
        try:
            told = _tell(b"BARRIER=1", its)
        finally:
            os.close(its)
        closed = select.poll()
        closed.register(ours, 0)  # a hang-up is always reported
        return told and bool(closed.poll(_TAKEN_UP_S * 1000))
    finally:
        os.close(ours)


def _tell(words: bytes, *descriptors: int) -> bool:
    """Whether there is somebody to tell, and it was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.connect("\0" + address[1:] if address.startswith("@") else address)
            socket.send_fds(telling, [words], descriptors)
    except OSError as failure:
        logs.error("service_manager_unreachable", address=address, reason=failure.strerror)
        return False
    return True
