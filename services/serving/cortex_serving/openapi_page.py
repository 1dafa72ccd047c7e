"""GET /openapi.json, described when it is first asked for: what that takes of a processor, a start would wait for.

Owns: when the document is made, and that other requests go on meanwhile. Does not own: what it says
(cortex_contracts.wire.openapi). Called by: the api package of each service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from sanic import HTTPResponse, Request


class OpenApiPage:
    """The page of what `describe` says, which is asked once, in a thread."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe
        self._body: bytes | None = None

    async def __call__(self, _request: Request) -> HTTPResponse:
        """GET /openapi.json"""
        if self._body is None:  # who asks while it is being made has it made again, which is as good
            self._body = await asyncio.to_thread(lambda: msgspec.json.encode(self._describe()))
        return HTTPResponse(self._body, content_type="application/json")
