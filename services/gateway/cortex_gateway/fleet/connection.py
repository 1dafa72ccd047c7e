"""One kept-alive HTTP/1.1 connection on which the same GET is asked again and again.

Owns: the bytes of it, each answer as status and body. A body that only the connection's end would bound is not taken:
it may have been cut off. Does not own: deadlines, connecting again, or what is in a body (probe.py, which calls this).

Written by hand because of what a poll costs: 1,000 a second take 4 % of a core in this way, and 40 % through the client
that is good enough for everything else (client.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast
from urllib.parse import SplitResult, urlsplit

import httptools

_MOST_BYTES = 8 * 2**20  # of a body
_PORTS = {"http": 80, "https": 443}


class Connection(asyncio.Protocol):
    """Between two answers there is one `ask`. After `lost` was called with the reason, nothing is called any more."""

    def __init__(self, request: bytes, answered: Callable[[int, bytes], None], lost: Callable[[str], None]) -> None:
        self._request, self._answered, self._lost = request, answered, lost
        self._parser = httptools.HttpResponseParser(self)
        self._asked = self._complete = self._last = self._ended = False
        self._body: list[bytes] = []
        self._num_bytes = 0

    @classmethod
    async def open(cls, url: str, answered: Callable[[int, bytes], None], lost: Callable[[str], None]) -> Connection:
        """A connection for `GET url`. Raises OSError."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: cls(_get(parts), answered, lost),
            parts.hostname or "",
            parts.port or _PORTS[parts.scheme],
            ssl=True if parts.scheme == "https" else None,
        )
        return connection

    def ask(self) -> None:
        """Send the request."""
        self._asked = True
        if self._transport.is_closing():
            self._end("the connection was closed")
        else:
            self._transport.write(self._request)

    def close(self) -> None:
        """End it; whoever calls this knows, and is not called."""
        self._ended = True
        self._transport.abort()

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as failure:
            self._end(f"the answer is not HTTP: {failure}")
            return
        if not self._asked:
            self._end("an answer to nothing")
        elif self._num_bytes > _MOST_BYTES:
            self._end(f"the answer has more than {_MOST_BYTES} bytes")
        elif self._complete:
            self._deliver()

    def connection_lost(self, failure: Exception | None) -> None:
        self._end(str(failure) if failure else "the connection was closed before a whole answer came")

    # ---- httptools

    def on_body(self, body: bytes) -> None:
        self._num_bytes += len(body)
        if self._num_bytes <= _MOST_BYTES:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._complete = self._parser.get_status_code() >= 200  # below that, more is to come
        self._last = not self._parser.should_keep_alive()  # known here and not afterwards

    # ----

    def _deliver(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body, self._num_bytes = [], 0
        self._asked = self._complete = False
        self._answered(status, body)
        if self._last and not self._ended:
            self._end("the neuron keeps no connection")

    def _end(self, reason: str) -> None:
        if not self._ended:
            self.close()
            self._lost(reason)


def _get(url: SplitResult) -> bytes:
    lines = (f"GET {url.path} HTTP/1.1", f"host: {url.netloc}", "accept: application/json", "accept-encoding: identity")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()
