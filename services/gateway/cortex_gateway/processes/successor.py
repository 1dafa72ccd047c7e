"""The process that is to take a gateway's place: the same command, which may lead to another release by now.

Owns: starting it, what it says, and its end where it does not come to serve. Does not own: what follows when it serves.
Called by: handover.py.

Nothing here waits, so that the gateway goes on serving: whoever wants to know looks again and again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from enum import StrEnum

import msgspec

from cortex_gateway.processes.estate import VARIABLE, VERSION, Begun, Estate, Refused, Serving, Word

TIMEOUT_S = 60.0  # to import, to read the files, to ask every neuron once
_MOST_READ = 4096
_words = msgspec.json.Decoder(Word)


class Standing(StrEnum):
    """How far it is. STARTING becomes one of the others, and those stay."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"


class CannotStart(Exception):
    """There is no such program, or it may not be run."""


class Successor:
    """Started by the constructor, with the descriptors of `sockets`. Raises CannotStart."""

    def __init__(self, sockets: dict[str, list[int]], draining: bool) -> None:
        self.standing = Standing.STARTING
        self.reason = ""  # why it failed
        self._begun = 0  # its pid, once it has left us
        self._read_by = time.monotonic() + TIMEOUT_S
        self._unread = b""
        self._heard, tell = os.pipe()
        os.set_blocking(self._heard, False)
        try:
            self._child = _start(Estate(VERSION, tell, sockets, draining))
        except OSError as failure:
            os.close(self._heard)
            raise CannotStart(f"{sys.argv[0]} cannot be started: {failure.strerror}") from failure
        finally:
            os.close(tell)

    @property
    def pid(self) -> int:
        """The process that it is as far as is known."""
        return self._begun or self._child

    def look(self) -> Standing:
        """How far it is now."""
        if self.standing is Standing.STARTING:
            self._read()
        if self.standing is Standing.STARTING and time.monotonic() > self._read_by:
            self.end(f"it did not serve within {TIMEOUT_S:g} s")
        return self.standing

    def end(self, reason: str) -> None:
        """Have it not serve. It accepts nothing before it says that it serves, so nobody is cut off."""
        if self.standing is Standing.STARTING:
            os.kill(self.pid, signal.SIGKILL)  # the pipe is still open there, so the number is still its own
            self._failed(reason)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while self.standing is Standing.STARTING:
                piece = os.read(self._heard, _MOST_READ)
                if not piece:
                    self._ended()
                    return
                *lines, self._unread = (self._unread + piece).split(b"\n")
                for line in lines:
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        with suppress(msgspec.MsgspecError):  # a word of a later release
            match _words.decode(line):
                case Begun(pid):
                    self._reap()
                    self._begun = pid
                case Serving():
                    self.standing = Standing.SERVING
                    os.close(self._heard)
                case Refused(reason):
                    self._failed(reason)

    def _ended(self) -> None:
        if self._begun:
            self._failed("it ended before it served")
            return
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)  # it may have closed the pipe only
        self._failed("it ended before it had begun")

    def _failed(self, reason: str) -> None:
        self.standing, self.reason = Standing.FAILED, reason
        os.close(self._heard)
        self._reap()

    def _reap(self) -> None:
        if not self._begun:
            os.waitpid(self._child, 0)


def _start(estate: Estate) -> int:
    """The pid of the command that this process was itself started by; a link in its path is followed anew."""
    descriptors = [estate.tell, *(each for some in estate.sockets.values() for each in some)]
    return os.posix_spawn(
        sys.argv[0],
        sys.argv,
        {**os.environ, VARIABLE: msgspec.json.encode(estate).decode()},
        file_actions=[(os.POSIX_SPAWN_DUP2, each, each) for each in descriptors],  # to itself: it stays open there
        setsigmask=(),
    )
