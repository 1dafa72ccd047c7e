"""One request on its way through a vLLM server: asked, read piece by piece, broken off.

Owns: the connection of it, and what a break becomes: an error, never a quiet end. Does not own: what the bytes mean
(answer_stream.py) or the client (api). Made by: server.py. Called by: api/passing_on.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp

from cortex_contracts.wire.errors import CortexError, UpstreamBroken

_T = TypeVar("_T")
_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
Cause = Callable[[], Awaitable[CortexError | None]]


class Passage:
    """Used by one task. `fail` may come from anybody, at any time."""

    def __init__(self, session: aiohttp.ClientSession, base: str, cause: Cause) -> None:
        self.asked_at = asyncio.get_running_loop().time()
        self.started = False  # it has given something
        self._session, self._base, self._cause = session, base, cause
        self._response: aiohttp.ClientResponse | None = None
        self._failure: CortexError | None = None
        self._wait: asyncio.Timeout | None = None

    async def ask(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Send it; the answer's head. Raises the CortexError that it broke with."""
        self._response = await self._unless_failed(self._session.post(self._base + path, data=body, headers=_HEADERS))
        return self._response

    async def piece(self) -> bytes:
        """What has come since the last one; b"" at the end. Raises the CortexError that it broke with."""
        assert self._response is not None, "asked"
        piece = await self._unless_failed(self._response.content.readany())
        self.started = True
        return piece

    async def rest(self) -> bytes:
        """The whole body. Raises the CortexError that it broke with."""
        assert self._response is not None, "asked"
        return await self._unless_failed(self._response.read())

    def fail(self, failure: CortexError) -> None:
        """Break it off: whoever waits for more, or will, gets `failure`; the first one counts."""
        if self._failure is None:
            self._failure = failure
            if self._wait is not None:
                self._wait.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """Take no more of it: where it is not over its connection is cut, and the server stops computing (case S8)."""
        if self._response is not None:
            self._response.close()

    async def _unless_failed(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(None) as wait:
                if self._failure is not None:
                    wait.reschedule(asyncio.get_running_loop().time())
                self._wait = wait
                try:
                    return await work
                finally:
                    self._wait = None
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            if self._failure is not None:
                raise self._failure from failure
            raise await self._cause() or UpstreamBroken(f"vllm broke its answer off: {failure}") from failure
