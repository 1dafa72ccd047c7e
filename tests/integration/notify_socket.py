"""The service manager's end of sd_notify: keeps what it is told and by whom; takes up a barrier when a test says so."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_MOST = 4096
_CREDENTIALS = struct.Struct("3i")


class NotifySocket:
    """`said` are pairs of a pid and words."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.said: list[tuple[int, str]] = []
        self._held: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[NotifySocket]:
        """One that listens at `path`."""
        opened, loop = cls(path), asyncio.get_running_loop()
        loop.add_reader(opened._socket, opened._read)
        try:
            yield opened
        finally:
            loop.remove_reader(opened._socket)
            opened.take_up()
            opened._socket.close()

    def take_up(self) -> None:
        """Close what came with barriers."""
        for each in self._held:
            os.close(each)
        self._held = []

    def _read(self) -> None:
        words, ancillary, _, _ = self._socket.recvmsg(_MOST, _MOST)
        pid = 0
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._held += array.array("i", content)
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _CREDENTIALS.unpack(content)[0]
        self.said.append((pid, words.decode()))
