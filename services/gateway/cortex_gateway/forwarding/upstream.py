"""Inference requests to neurons: which connection each goes on.

Owns: the connections that are kept for the next request, and which headers of an answer go on to the client. Does not
own: which neuron, nor the answer (response.py). Called by: attempts.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from urllib.parse import SplitResult, urlsplit

from cortex_gateway.fleet.connection import Connection
from cortex_gateway.forwarding.response import CannotConnect, Lost, Response

USAGE_HEADER = "x-cortex-usage"
_NOT_PASSED_BACK = frozenset(
    {
        "alt-svc", "connection", "content-length", "content-type", "date", "keep-alive", "proxy-authenticate",
        "request-id", "server", "te", "trailer", "transfer-encoding", "upgrade", USAGE_HEADER, "x-request-id",
    }
)  # fmt: skip
_MOST_KEPT = 256  # connections without a request, of one neuron
_KEPT_S = 30.0  # so long they are trusted: shorter than what is between us and a neuron forgets them in


class _Neuron:
    """One base URL: what is known of it, and its connections that wait for a request, the latest last."""

    def __init__(self, base: str) -> None:
        self.base, self.url = base, urlsplit(base)
        self.kept: deque[tuple[float, Connection]] = deque()

    async def connect(self, timeout_s: float) -> Connection:
        """A new connection. Raises CannotConnect."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                return await Connection.open(self.base, partial(self._keep, loop))
        except TimeoutError as failure:
            raise CannotConnect(f"no connection in {timeout_s:g} s") from failure
        except OSError as failure:
            raise CannotConnect(failure.strerror or str(failure)) from failure

    def take(self, now: float) -> Connection | None:
        """The latest that is still good; those that are not are given up."""
        while self.kept:
            since, connection = self.kept.pop()
            if now - since <= _KEPT_S and connection.is_open:
                return connection
            connection.abort()
        return None

    def _keep(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        self.kept.append((loop.time(), connection))
        if len(self.kept) > _MOST_KEPT:
            self.kept.popleft()[1].abort()


class Upstream:
    """The connections to neurons. `async with` closes them."""

    def __init__(self) -> None:
        self._neurons: dict[str, _Neuron] = {}

    async def __aenter__(self) -> Upstream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for neuron in self._neurons.values():
            for _, connection in neuron.kept:
                connection.abort()

    async def post(
        self, base: str, path: str, body: bytes, headers: Mapping[str, str], connect_s: float, idle_s: float | None
    ) -> Response:
        """The answer, as soon as its head is there. Raises UpstreamFailure."""
        neuron = self._neurons.get(base)
        if neuron is None:
            neuron = self._neurons[base] = _Neuron(base)
        head = _head(neuron.url, path, headers, len(body))
        connection = neuron.take(asyncio.get_running_loop().time())
        if connection is not None:
            try:
                return await _asked(connection, head, body, idle_s)
            except Lost:
                pass  # most likely it was closed for its idleness while the request was on its way
        return await _asked(await neuron.connect(connect_s), head, body, idle_s)


async def _asked(connection: Connection, head: bytes, body: bytes, idle_s: float | None) -> Response:
    response = Response(connection, idle_s)
    connection.ask(head, body, response)
    await response.head()
    return response


def passed_back(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a neuron's answer that the client gets, less the content type."""
    return {name: value for name, value in headers.items() if name not in _NOT_PASSED_BACK}


def _head(url: SplitResult, path: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = f"POST {url.path}{path} HTTP/1.1\r\nhost: {url.netloc}\r\n{lines}content-length: {length}\r\n\r\n"
    return head.encode(errors="surrogateescape")
