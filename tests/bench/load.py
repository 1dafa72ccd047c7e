"""A load of HTTP requests on one address, as light as Python allows: raw sockets, one connection a client."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

_ANSWER_TIMEOUT_S = 300
_COUNTS = re.compile(rb'"(prompt|completion)_tokens": ?([0-9]+)')


@dataclass
class Measured:
    """What a load saw. Times in seconds."""

    requests: int = 0
    chunks: int = 0
    wall_s: float = 0.0
    first_s: list[float] = field(default_factory=list)  # to the first content chunk
    gaps_s: list[float] = field(default_factory=list)  # of one answer, first to last content chunk
    total_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # chunks with content, of each answer
    usage: list[dict[str, int]] = field(default_factory=list)  # "prompt" and "completion" tokens, where an answer tells

    def decode_tokens_per_s(self) -> float:
        """Median over answers, from first to last content chunk: prefill excluded."""
        return statistics.median((n - 1) / gap for n, gap in zip(self.tokens, self.gaps_s, strict=True) if gap > 0)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request_bytes(body: dict[str, Any], path: str = "/v1/chat/completions") -> bytes:
    """A whole HTTP/1.1 request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def run(port: int, bodies: list[dict[str, Any]], clients: int, path: str = "/v1/chat/completions") -> Measured:
    """Send each body once, `clients` at a time. Raises RuntimeError on any answer that is not 200 and whole."""
    measured, pending = Measured(), list(bodies)
    started = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        try:
            while pending:
                await asyncio.wait_for(_ask(reader, writer, pending.pop(), path, measured), _ANSWER_TIMEOUT_S)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(clients, len(bodies))):
            group.create_task(client())
    measured.wall_s = time.perf_counter() - started
    return measured


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any], path: str, measured: Measured
) -> None:
    writer.write(request_bytes(body, path))
    sent = time.perf_counter()
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"{head.decode()}{(await reader.read(2000)).decode()}")
    if b"content-length:" in head:
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        await _read_stream(reader, sent, measured)
    measured.requests += 1
    measured.total_s.append(time.perf_counter() - sent)


async def _read_stream(reader: asyncio.StreamReader, sent: float, measured: Measured) -> None:
    first = last = 0.0
    content, done, usage = 0, False, b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data = (await reader.readexactly(size + 2))[:-2]
        if new := _num_contents(data):
            last = time.perf_counter()
            first = first or last
            content += new
        usage = data if b'"completion_tokens"' in data else usage
        # Not every server ends its completions with [DONE] (transformers serve does not).
        done = done or b"data: [DONE]" in data or b'"finish_reason":"' in data
    await reader.readexactly(2)
    if not done:
        raise RuntimeError("a stream ended before its answer did")
    measured.chunks += content
    measured.first_s.append(first - sent)
    measured.gaps_s.append(last - first)
    measured.tokens.append(content)
    measured.usage.append({name.decode(): int(count) for name, count in _COUNTS.findall(usage)})


def _num_contents(data: bytes) -> int:
    """Of chat chunks or completion chunks, those with text."""
    key = b'"content":' if b'"content":' in data else b'"text":'
    return data.count(key) - data.count(key + b' ""') - data.count(key + b'""')
