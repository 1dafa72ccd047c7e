"""Requests that are no HTTP, or nearly, at a real gateway: what it answers, and that it lives on.

Owns: making such requests from a number, sending them in pieces, and judging what comes back. Called by:
test_raw_http.py (some), fuzz.py (as many as there is time for).
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway_process import RunningGateway, model_entry, running
from scripted_neuron import scripted

MODEL = "model-a"
_AT_ONCE = 16
_QUIET_S = 0.3  # nothing more is coming
_CONNECT_S = 10.0
_LONGEST_READ_S = 10.0
_PATHS = (*["/v1/chat/completions", "/v1/messages", "/v1/completions"] * 10, "/v1/models", "/health", "/nowhere",
          "/fleet/status", "/v1/models/%ff%00", "*", "//", "/v1/messages?x=%zz", "http://other/v1/messages", "/\xff",
          "/v1/responses", "/a b")  # fmt: skip
_METHODS = ("GET", *["POST"] * 24, "PUT", "DELETE", "OPTIONS", "TRACE", "get", "PRI", "\x16\x03\x01", "")
_VERSIONS = (*["HTTP/1.1"] * 24, "HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "HTTP/1.1 HTTP/1.1")
_HEADERS = (
    "content-length: -1", "content-length: 1e3", "content-length: 99999999999999999999", "content-length: 5, 5",
    "content-length: 0", "content-length:", "transfer-encoding: chunked", "transfer-encoding: gzip, chunked",
    "transfer-encoding: identity", "expect: 100-continue", "expect: x", "upgrade: websocket", "connection: close",
    "connection: upgrade", "content-type: text/plain", "content-type: application/json; charset=\xff",
    "content-encoding: gzip", "no colon", ": no name", " folded", "x: \x00", "x-request-id: \r", "x-request-id: a b",
    "authorization: Bearer", "authorization: Bearer \xe9\xe9", "anthropic-version: \x01", "traceparent: 00-0-0-0",
    "host: a\x0bb", "cookie: " + "c" * 7000, "x-long: " + "y" * 20000, "accept: */*;q=x", "range: bytes=9-1",
)  # fmt: skip
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")


class Malformed(AssertionError):
    """The gateway answered what is no answer; the message shows it."""


@dataclass(frozen=True)
class Answer:
    """One response of those on a connection."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def conversation(number: int) -> list[bytes]:
    """What is sent on one connection, in pieces; the same for the same number."""
    chance = random.Random(number)
    whole = b"".join(_request(chance) for _ in range(chance.choice((1, 1, 1, 2, 5))))
    for _ in range(chance.choice((0, 0, 0, 1, 4))):
        at = chance.randrange(len(whole) + 1)
        whole = whole[:at] + chance.randbytes(chance.randrange(4)) + whole[at + chance.randrange(4) :]
    cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(chance.choice((0, 0, 1, 3))))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if start < end]


def _request(chance: random.Random) -> bytes:
    body = _body(chance)
    headers = ["host: fuzz", "content-type: application/json"]
    headers += chance.sample(_HEADERS, chance.choice((0, 0, 0, 0, 1, 2)))
    if chance.random() < 0.3:
        headers.append("transfer-encoding: chunked")
        body = _chunked(chance, body)
    elif chance.random() < 0.9:
        headers.append(f"content-length: {len(body) + chance.choice((*[0] * 9, -1, 1, 50))}")
    line = f"{chance.choice(_METHODS)} {chance.choice(_PATHS)} {chance.choice(_VERSIONS)}"
    end = chance.choice((*["\r\n"] * 12, "\n", "\r"))
    return end.join([line, *headers, "", ""]).encode("latin-1") + body


def _body(chance: random.Random) -> bytes:
    asked = {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
    kinds = (
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        b"null",
        json.dumps({**asked, "stream": True}).encode(),
        b'{"model":7}',
    )
    return chance.choice((*kinds, json.dumps(asked).encode(), json.dumps(asked).encode()))


def _chunked(chance: random.Random, body: bytes) -> bytes:
    size = chance.choice(
        (b"%x" % len(body), b"%x" % (len(body) + 3), b"-1", b"zz", b"f" * 40, b"", b"%x;a=b" % len(body))
    )
    return (
        size + b"\r\n" + body + chance.choice((b"\r\n0\r\n\r\n", b"\r\n0\r\nx: y\r\n\r\n", b"0\r\n\r\n", b"\r\n", b""))
    )


async def speak(port: int, pieces: list[bytes]) -> tuple[bytes, bool]:
    """What comes back, and whether the gateway closed the connection."""
    async with asyncio.timeout(_CONNECT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        async with asyncio.timeout(_LONGEST_READ_S):
            while True:
                more = await asyncio.wait_for(reader.read(2**16), _QUIET_S if not _is_open(said) else _LONGEST_READ_S)
                if not more:
                    return said, True
                said += more
    except ConnectionError:
        return said, True
    except TimeoutError:
        return said, False
    finally:
        writer.transport.abort()


def _is_open(said: bytes) -> bool:
    """Whether an answer has begun and not ended."""
    try:
        list(answers(said))
    except Malformed:
        return True
    return False


def answers(said: bytes) -> Iterator[Answer]:
    """The responses on a connection. Raises Malformed at what is none, or not whole."""
    while said:
        head, blank, said = said.partition(b"\r\n\r\n")
        status = _STATUS.match(head + b"\r\n")
        if not blank or status is None:
            raise Malformed(f"no head of a response: {head[:300]!r}")
        if status[1] == b"100":
            continue
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        body, said = _unchunked(said) if b"transfer-encoding" in headers else _counted(headers, said)
        yield Answer(int(status[1]), headers, body)


def _counted(headers: dict[bytes, bytes], said: bytes) -> tuple[bytes, bytes]:
    length = int(headers.get(b"content-length", b"0"))
    if len(said) < length:
        raise Malformed(f"{len(said)} of {length} bytes: {said[:300]!r}")
    return said[:length], said[length:]


def _unchunked(said: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, said = said.partition(b"\r\n")
        if not size or len(said) < int(size, 16) + 2:
            raise Malformed(f"a chunk that is not whole after {body[-300:]!r}")
        body, said = body + said[: int(size, 16)], said[int(size, 16) + 2 :]
        if int(size, 16) == 0:
            return body, said


def judge(said: bytes) -> list[int]:
    """The statuses. Raises Malformed unless every refusal is an envelope with a message, and none is a 500."""
    statuses = []
    for answer in answers(said):
        statuses.append(answer.status)
        if answer.status < 400:
            continue
        try:
            error = json.loads(answer.body)["error"]
            whole = bool(error["message"] and error["type"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole or answer.status == 500 or b"x-request-id" not in answer.headers:
            raise Malformed(f"{answer}")
    return statuses


async def attack(gateway: RunningGateway, numbers: Iterator[int]) -> int:
    """Hold the conversations of these numbers, some at once; how many there were. Raises Malformed, with the number."""
    port, held = int(gateway.url.rpartition(":")[2]), 0

    async def one_after_the_other() -> None:
        nonlocal held
        for number in numbers:
            said, _ = await speak(port, conversation(number))
            try:
                judge(said)
            except Malformed as found:
                raise Malformed(f"conversation({number}) = {conversation(number)!r}: {found}") from None
            held += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(one_after_the_other())
    assert (await gateway.get("/health"))["status"] == "ok"
    async with gateway.ask(MODEL) as response:
        assert response.status == 200
    return held


def fuzz(seconds: int) -> None:
    """Attack a gateway for so long."""
    until, first = time.monotonic() + seconds, time.time_ns() % 2**40

    def numbers() -> Iterator[int]:
        number = first
        while time.monotonic() < until:
            yield number
            number += 1

    async def run() -> int:
        with tempfile.TemporaryDirectory() as folder:
            async with (
                scripted("one", MODEL) as neuron,
                running(Path(folder), [neuron], [model_entry(MODEL)]) as gateway,
            ):
                return await attack(gateway, numbers())

    sys.stdout.write(f"stat::number_of_executed_units: {asyncio.run(run())}\n")
