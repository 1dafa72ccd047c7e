"""The gateway that started this one to take its place: what it leaves, and what it is told. Mostly there is none.

Owns: taking over, and the end of the pipe. Does not own: what becomes of the sockets (sockets.py). Called by: start.py,
supervisor.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

import msgspec

from cortex_gateway.processes.estate import VARIABLE, VERSION, Begun, Estate, Refused, Serving, Word
from cortex_serving import service_manager

_NOBODY = Estate(v=VERSION, tell=-1, sockets={})


class CannotTakeOver(Exception):
    """What was left is nothing that this release knows what to do with."""


class Predecessor:
    """Told once that we serve, or that we will not."""

    def __init__(self, estate: Estate = _NOBODY) -> None:
        self._tell = estate.tell
        self.draining = estate.draining
        self._sockets = {
            address: [socket.socket(fileno=descriptor) for descriptor in descriptors]
            for address, descriptors in estate.sockets.items()
        }

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Predecessor:
        """Take over what is left in `environment`, which has it no more then. Raises CannotTakeOver.

        Leaves whoever started this process, so that the service manager is its parent: only of its own children does
        one learn at once that they have died.
        """
        left = environment.pop(VARIABLE, None)
        if left is None:
            return cls()
        try:
            estate = msgspec.json.decode(left, type=Estate)
        except msgspec.MsgspecError as failure:
            raise CannotTakeOver(f"{VARIABLE}: {failure}") from failure
        for descriptor in (estate.tell, *(each for some in estate.sockets.values() for each in some)):
            os.set_inheritable(descriptor, False)
        if os.fork():
            os._exit(0)
        predecessor = cls(estate)
        predecessor._say(Begun(os.getpid()))
        if estate.v != VERSION:
            reason = f"a handover of version {estate.v} was begun; this release knows {VERSION}"
            predecessor.refuse(reason)
            raise CannotTakeOver(reason)
        return predecessor

    def sockets(self, address: str) -> list[socket.socket]:
        """What it listens on at `address`, which is the caller's from now on."""
        return self._sockets.pop(address, [])

    def serving(self) -> None:
        """We serve. Where nobody was before, it is the service manager that waits to hear that."""
        if self._tell == _NOBODY.tell:
            service_manager.ready()
        else:
            self._say(Serving())
            self._part()

    def refuse(self, reason: str) -> None:
        """We will not serve; the predecessor goes on."""
        if self._tell != _NOBODY.tell:
            self._say(Refused(reason))
            self._part()
        self.leave_unclaimed()

    def leave_unclaimed(self) -> None:
        """Close the sockets of addresses that we do not listen on."""
        for each in [each for some in self._sockets.values() for each in some]:
            each.close()
        self._sockets = {}

    def _say(self, word: Word) -> None:
        with suppress(BrokenPipeError):  # it has died meanwhile, and we are all there is
            os.write(self._tell, msgspec.json.encode(word) + b"\n")

    def _part(self) -> None:
        os.close(self._tell)
        self._tell = _NOBODY.tell
