"""One HTTP/1.1 connection to a neuron, on which one request after another is answered.

Owns: the bytes of it. Does not own: which connection a request goes on, or what becomes of an answer: an Answer is told
of it as it comes. Called by: probe.py (polls), forwarding/upstream.py (inference).

Written by hand because each poll and each chunk of a stream goes through here: 1,000 polls a second are 3 % of a core
here and 40 % through aiohttp, which serves well for everything else (client.py), and a request costs a third less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

_MOST_HEADER_BYTES = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_BOUNDS = ("content-length", "transfer-encoding")


class Answer(Protocol):
    """Whoever wants to know of an answer. `status` is 0 until the head is there; names of headers are in lower case."""

    status: int
    headers: dict[str, str]

    def came(self, piece: bytes) -> None:
        """More of the body."""

    def ended(self) -> None:
        """That was all."""

    def lost(self, reason: str) -> None:
        """No more will come, and that was not all."""

    def wake(self) -> None:
        """What has been told came in one piece, and is over for now."""


class Connection(asyncio.Protocol):
    """Between two answers it is in its owner's hands: `free` is called when an answer is over and another may begin."""

    def __init__(self, free: Callable[[Connection], None]) -> None:
        self._free = free
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._num_header_bytes = 0

    @classmethod
    async def open(cls, url: str, free: Callable[[Connection], None]) -> Connection:
        """A connection to the host of `url`. Raises OSError."""
        parts = urlsplit(url)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(free),
            parts.hostname or "",
            parts.port or _PORTS[parts.scheme],
            ssl=True if parts.scheme == "https" else None,
        )
        return connection

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return not self._transport.is_closing()

    def ask(self, head: bytes, body: bytes, answer: Answer) -> None:
        """Send a request; `answer` will be told."""
        assert self._answer is None, "one at a time"
        self._answer = answer
        self._transport.write(head)
        self._transport.write(body)

    def pause(self) -> None:
        """Read nothing for now."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as failure:
            self._lose(f"the answer is not HTTP: {failure}")
        if answer is None:
            self.abort()  # an answer to nothing
        else:
            answer.wake()

    def connection_lost(self, failure: Exception | None) -> None:
        answer = self._answer
        if failure is None and answer is not None and answer.status and not any(map(answer.headers.get, _BOUNDS)):
            self._answer = None  # one that ends with its connection
            answer.ended()
            answer.wake()
        else:
            self._lose(str(failure) if failure else "the connection was closed before a whole answer came")

    # ---- httptools

    def on_message_begin(self) -> None:
        self._num_header_bytes = 0
        if self._answer is None:
            self.abort()  # an answer to nothing

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_header_bytes += len(name) + len(value)
        if self._num_header_bytes > _MOST_HEADER_BYTES:
            self._lose(f"the answer's header has more than {_MOST_HEADER_BYTES} bytes")
        elif self._answer is not None:
            self._answer.headers[name.decode("latin-1").lower()] = value.decode(errors="surrogateescape")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is None:
            return
        if status >= 200:
            self._answer.status = status
        else:
            self._answer.headers.clear()  # 100 Continue and its like: more is to come

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.came(body)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None or not answer.status:
            return
        self._answer = None
        keeps = self._parser.should_keep_alive()  # known here and not afterwards
        answer.ended()
        if keeps and self.is_open:
            self._free(self)
        else:
            self._transport.close()

    # ----

    def _lose(self, reason: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.lost(reason)
        self.abort()
