"""A proxy that lets nobody out: clients are told to use it for all but this machine, and it notes whom they want.

Owns: its socket and its list. A program that heeds no proxy is not held up by it. Called by: __main__.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Outside:
    """Whom clients wanted to reach since it was last asked."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._wanted: dict[str, None] = {}

    def note(self, request_line: str) -> None:
        """`CONNECT host:port HTTP/1.1`, or `GET http://host/path HTTP/1.1`."""
        words = request_line.split()
        if len(words) == 3:
            target = words[1] if "://" in words[1] else f"//{words[1]}"
            self._wanted[urlsplit(target).hostname or words[1]] = None

    def taken(self) -> tuple[str, ...]:
        """Their names, each once; from now on they are forgotten."""
        wanted, self._wanted = tuple(self._wanted), {}
        return wanted


@asynccontextmanager
async def refusing() -> AsyncIterator[Outside]:
    """The proxy, inside the with block."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):
            outside.note((await reader.readline()).decode("latin-1"))
            writer.write(_REFUSAL)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        outside = Outside(server.sockets[0].getsockname()[1])
        yield outside
