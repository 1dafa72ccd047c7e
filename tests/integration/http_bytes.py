"""Requests byte by byte: what no client library would send, or would not stop in the middle of."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()


def post(path: str, body: bytes = BODY, length: int | str | None = None, **headers: str) -> bytes:
    """A POST; `length` is what it says its body has, where that is not so."""
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def send_and_leave(url: str, data: bytes) -> None:
    """Send it and close the connection."""
    _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(data)
    await writer.drain()
    writer.close()


async def answer_to(url: str, data: bytes) -> bytes:
    """Send it; what comes back until the other side closes."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
