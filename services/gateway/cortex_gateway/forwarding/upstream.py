"""Inference requests to neurons: one session, no total time limit (case S2).

Owns: connections and their time limits, and which headers of an answer go on to the client. Does not own: which neuron,
nor the body of the answer. Called by: attempts.py.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import TracebackType

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

_NOT_PASSED_BACK = frozenset(
    {
        "alt-svc", "connection", "content-length", "content-type", "date", "keep-alive", "proxy-authenticate",
        "request-id", "server", "te", "trailer", "transfer-encoding", "upgrade", "x-cortex-usage", "x-request-id",
    }
)  # fmt: skip
USAGE_HEADER = "x-cortex-usage"
_AT_ONCE = 64 * 1024  # bytes; a larger body is written in pieces, so that a slow neuron holds nobody up


class Upstream:
    """The connections to neurons. `async with` closes them."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("user-agent", "accept", "content-type"),
        )
        self._urls: dict[tuple[str, str], URL] = {}

    async def __aenter__(self) -> Upstream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(
        self, base: str, path: str, body: bytes, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """The answer, as soon as its head is there. Raises aiohttp's errors and TimeoutError."""
        url = self._urls.get((base, path))
        if url is None:
            url = self._urls[base, path] = URL(base + path, encoded=True)
        data = io.BytesIO(body) if len(body) > _AT_ONCE else body
        return await self._session.post(url, data=data, headers=headers, timeout=timeout, allow_redirects=False)


def timeouts(stream: bool, connect_s: float, idle_s: float) -> aiohttp.ClientTimeout:
    """A stream may be silent for `idle_s`. A whole answer is silent until it is done: there the poller watches."""
    return aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=idle_s if stream else None)


def passed_back(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    """The headers of a neuron's answer that the client gets, less the content type."""
    lowered = ((name.lower(), value) for name, value in headers.items())
    return {name: value for name, value in lowered if name not in _NOT_PASSED_BACK}
