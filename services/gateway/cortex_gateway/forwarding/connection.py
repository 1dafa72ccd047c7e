"""One HTTP/1.1 connection to a neuron, on which one request after another is answered.

Owns: the bytes of it. Does not own: which connection a request goes on (upstream.py), or the wait for an answer
(response.py). Called by: upstream.py.

Written by hand because the path of every chunk goes through here: through aiohttp a request costs a third more CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from cortex_gateway.forwarding.response import Lost, Response

_MOST_HEADER_BYTES = 64 * 1024


class Connection(asyncio.Protocol):
    """Between two answers it is in its owner's hands: `free` is called when an answer is over and another may begin."""

    def __init__(self, free: Callable[[Connection], None]) -> None:
        self._free = free
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._num_header_bytes = 0
        self._bounded = False  # the answer says where it ends; the other kind ends with the connection

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return not self._transport.is_closing()

    def ask(self, head: bytes, body: bytes, idle_s: float | None) -> Response:
        """Send a request; its answer comes."""
        assert self._response is None, "one at a time"
        self._response = Response(self, idle_s)
        self._transport.write(head)
        self._transport.write(body)
        return self._response

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
        response = self._response
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as failure:
            self._lose(f"the answer is not HTTP: {failure}")
        if response is None:
            self.abort()  # an answer to nothing
        else:
            response.wake()

    def connection_lost(self, failure: Exception | None) -> None:
        response = self._response
        if response is not None and response.status and not self._bounded and failure is None:
            self._response = None
            response.ended()
            response.wake()
        else:
            self._lose(str(failure) if failure else "the connection was closed")

    # ---- httptools

    def on_message_begin(self) -> None:
        self._num_header_bytes, self._bounded = 0, False
        if self._response is None:
            self.abort()  # an answer to nothing

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_header_bytes += len(name) + len(value)
        if self._num_header_bytes > _MOST_HEADER_BYTES:
            self._lose(f"the answer's header has more than {_MOST_HEADER_BYTES} bytes")
        elif self._response is not None:
            key = name.decode("latin-1").lower()
            self._response.headers[key] = value.decode(errors="surrogateescape")
            self._bounded |= key in ("content-length", "transfer-encoding")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response is None:
            return
        if status >= 200:
            self._response.status = status
        else:
            self._response.headers.clear()  # 100 Continue and its like: more is to come

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._response.came(body)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not response.status:
            return
        self._response = None
        response.ended()
        if self._parser.should_keep_alive() and self.is_open:
            self._free(self)
        else:
            self._transport.close()

    # ----

    def _lose(self, reason: str) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.fail(Lost(reason))
        self.abort()
