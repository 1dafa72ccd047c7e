"""A neuron of raw bytes: what it answers, and when it hangs up, is for the test to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

DISCOVERY = {"hostname": "h", "os": "o", "kernel": "k", "device_kind": "cpu", "devices": [], "harnesses": ["torch"]}


def report(version: str = "1", rows: Sequence[dict[str, Any]] = (), **changes: Any) -> bytes:
    """The body of GET /report; `rows` are its models, `changes` those of its health."""
    health = {"state": "ready", "activation": {}, "devices": [], "models": [], "version": version, **changes}
    return json.dumps({"health": health, "models": list(rows)}).encode()


def sized(body: bytes, head: str = "HTTP/1.1 200 OK") -> bytes:
    """A whole answer."""
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class RawNeuron:
    """`answer` is sent to each GET /report in these pieces; None hangs up instead, and no pieces is silence."""

    answer: list[bytes] | None = field(default_factory=lambda: [sized(report())])
    version: str = "1"
    answers: int | None = None  # on one connection; the next request on it is hung up on
    free: asyncio.Event = field(default_factory=asyncio.Event)  # answers wait for this; set at first
    connections: int = 0  # those that asked for a report
    reports: int = 0
    discoveries: int = 0
    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hang_up(self) -> None:
        """Cut every connection."""
        for writer in list(self.open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open.add(writer)
        asked = 0
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /discovery "):
                    self.discoveries += 1
                    writer.write(sized(json.dumps({**DISCOVERY, "version": self.version}).encode()))
                    continue
                assert head.startswith(b"GET /report HTTP/1.1\r\n")
                self.reports += 1
                self.connections += not asked
                if self.answer is None or asked == self.answers:
                    return
                asked += 1
                await self.free.wait()
                for piece in self.answer:
                    writer.write(piece)
                    await asyncio.sleep(0)  # a turn of the loop for the kernel to say that there is something to read,
                    await asyncio.sleep(0)  # and one for who reads it in this process: pieces arrive as pieces
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open.discard(writer)
            writer.close()


@asynccontextmanager
async def raw_neuron(**fields: Any) -> AsyncIterator[RawNeuron]:
    """One that listens inside the with block."""
    neuron = RawNeuron(**fields)
    neuron.free.set()
    server = await asyncio.start_server(neuron.serve, "127.0.0.1", 0)
    neuron.port = server.sockets[0].getsockname()[1]
    try:
        yield neuron
    finally:
        server.close()
        neuron.hang_up()
        await server.wait_closed()
