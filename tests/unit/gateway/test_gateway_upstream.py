"""Inference requests on the wire: every form of answer, every way it can fail, and which connection is used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cortex_gateway.forwarding.response import CannotConnect, Lost, Response, Silent
from cortex_gateway.forwarding.upstream import Upstream

OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@dataclass
class Peer:
    """What was asked, on how many connections, and how many of these are over."""

    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, reader: asyncio.StreamReader) -> None:
        """One whole request."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.asked.append(head + await reader.readexactly(length))


Script = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[Peer]:
    """A server that does `script` with each connection, then closes it."""
    it = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        it.connections += 1
        try:
            await script(it, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            it.gone.set()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield it


def always(*pieces: bytes) -> Script:
    """Answers each request of a connection with these pieces."""

    async def script(it: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await it.read(reader)
            await send(writer, *pieces)

    return script


def once(*pieces: bytes) -> Script:
    """The same, and then closes."""

    async def script(it: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await it.read(reader)
        await send(writer, *pieces)

    return script


async def send(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Pieces that arrive as pieces."""
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def ask(upstream: Upstream, it: Peer, body: bytes = b"{}", idle_s: float | None = None) -> Response:
    return await upstream.post(it.url, "/v1/x", body, {"x-a": "b"}, connect_s=5, idle_s=idle_s)


@pytest.mark.parametrize(
    "pieces",
    [
        (SIZED,),
        tuple(SIZED[at : at + 1] for at in range(len(SIZED))),
        (CHUNKED, b"2\r\nhe\r\n", b"3;x=y\r\nll", b"o\r\n0\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", SIZED),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + SIZED,),
    ],
    ids=["sized", "byte by byte", "chunked", "after 100", "after 103"],
)
async def test_an_answer_is_read_in_every_form(pieces: tuple[bytes, ...]) -> None:
    """And its connection takes the next request."""
    async with peer(always(*pieces)) as it, Upstream() as upstream:
        for _ in range(3):
            response = await ask(upstream, it)
            assert (response.status, await response.read()) == (200, b"hello")
            assert "link" not in response.headers
    assert it.connections == 1
    assert it.asked == [it.asked[0]] * 3
    assert it.asked[0].startswith(b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert it.asked[0].endswith(b"\r\nx-a: b\r\ncontent-length: 2\r\n\r\n{}")


@pytest.mark.parametrize("head", [OK, b"HTTP/1.0 200 OK\r\n"])
async def test_an_answer_without_a_length_ends_with_its_connection(head: bytes) -> None:
    """As HTTP has it; the next request goes on another."""
    async with peer(once(head + b"\r\n", b"hel", b"lo")) as it, Upstream() as upstream:
        for _ in range(2):
            assert await (await ask(upstream, it)).read() == b"hello"
    assert it.connections == 2


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n\r\n", OK + b"x: " + b"y" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n"],
    ids=["nothing", "half a head", "another protocol", "endless header", "another protocol, asked for by nobody"],
)
async def test_what_is_no_answer_is_lost(answer: bytes) -> None:
    """Before its head is there: another neuron may be asked."""
    async with peer(once(answer)) as it, Upstream() as upstream:
        with pytest.raises(Lost):
            await ask(upstream, it)


@pytest.mark.parametrize("answer", [SIZED[:-1], CHUNKED + b"2\r\nhe\r\n", CHUNKED + b"zz\r\n"])
async def test_an_answer_that_is_cut_off_is_lost_after_its_beginning(answer: bytes) -> None:
    """What came is given first; then the failure, and never a quiet end."""
    async with peer(once(answer)) as it, Upstream() as upstream:
        response = await ask(upstream, it)
        with pytest.raises(Lost):
            await response.read()


async def test_nobody_there_cannot_be_connected_to(free_port: int) -> None:
    """Told apart from what breaks later: nothing has been sent."""
    async with Upstream() as upstream:
        with pytest.raises(CannotConnect):
            await ask(upstream, Peer(url=f"http://127.0.0.1:{free_port}"))


async def test_a_request_that_meets_a_closed_connection_goes_on_another() -> None:
    """A neuron may close a kept connection for its idleness just when a request is on its way."""
    answered = 0

    async def script(it: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await it.read(reader)
        answered += 1
        await send(writer, SIZED)
        await it.read(reader)  # and closes

    async with peer(script) as it, Upstream() as upstream:
        for _ in range(2):
            assert await (await ask(upstream, it)).read() == b"hello"
        assert it.connections == answered == 2


async def test_a_new_connection_that_is_closed_is_not_tried_again() -> None:
    """That is no accident of idleness."""
    async with peer(once()) as it, Upstream() as upstream:
        with pytest.raises(Lost):
            await ask(upstream, it)
        assert it.connections == 1


async def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    """It must not be taken for that of the next request."""
    async with peer(always(SIZED + SIZED)) as it, Upstream() as upstream:
        for _ in range(2):
            assert await (await ask(upstream, it)).read() == b"hello"
        assert it.connections == 2


async def trickle(it: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Eight pieces, a tenth of a second apart, and then silence."""
    await it.read(reader)
    await send(writer, CHUNKED)
    for _ in range(8):
        await send(writer, b"1\r\nx\r\n")
        await asyncio.sleep(0.1)
    await reader.read()


@pytest.mark.parametrize("poured", [False, True])
async def test_silence_is_counted_from_the_last_piece(poured: bool) -> None:
    """Never in total (S2)."""
    taken = bytearray()

    def take(piece: bytes) -> bool:
        taken.extend(piece)
        return True

    async with peer(trickle) as it, Upstream() as upstream:
        response = await ask(upstream, it, idle_s=0.3)
        if poured:
            with pytest.raises(Silent):
                await response.pour(take)
        else:
            for _ in range(8):
                take(await response.piece())
            with pytest.raises(Silent):
                await response.piece()
    assert taken == b"x" * 8


async def test_a_client_that_takes_its_time_is_no_silent_neuron() -> None:
    """Only what is waited for can be missed."""
    async with peer(trickle) as it, Upstream() as upstream:
        response = await ask(upstream, it, idle_s=0.3)
        await asyncio.sleep(1.2)
        assert await response.piece() == b"x" * 8


async def test_a_slow_reader_stops_the_neuron() -> None:
    """What is not taken is not read: memory has an end."""
    written = 0

    async def script(it: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await it.read(reader)
        writer.write(OK + b"content-length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()
            written += 100_000

    async with peer(script) as it, Upstream() as upstream:
        response = await ask(upstream, it)
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.2)
        assert written < 20_000_000
        assert len(await response.read()) == 50_000_000


@pytest.mark.parametrize("leave", ["close", "cancel"])
async def test_leaving_an_answer_ends_its_connection(leave: str) -> None:
    """That is how a neuron hears of it (S8)."""

    async def script(it: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await it.read(reader)
        await send(writer, CHUNKED, b"1\r\nx\r\n")
        await reader.read()

    async with peer(script) as it, Upstream() as upstream:
        response = await ask(upstream, it)
        assert await response.piece() == b"x"
        if leave == "close":
            response.close()
        else:
            reading = asyncio.create_task(response.piece())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        async with asyncio.timeout(5):
            await it.gone.wait()


async def test_pieces_are_poured_as_they_come_until_one_is_too_many() -> None:
    """Who takes them may stop, go on, and fail; nothing is lost or given twice."""
    pieces = [b"%d" % number for number in range(9)]

    async with (
        peer(always(CHUNKED, *(b"1\r\n%b\r\n" % piece for piece in pieces), b"0\r\n\r\n")) as it,
        Upstream() as upstream,
    ):
        response, taken, num_calls = await ask(upstream, it), bytearray(), 0

        def one(piece: bytes) -> bool:
            nonlocal num_calls
            num_calls += 1
            taken.extend(piece)
            return False

        def all_of_them(piece: bytes) -> bool:
            taken.extend(piece)
            return True

        await response.pour(one)
        await response.pour(one)
        assert num_calls == 2
        await response.pour(all_of_them)
        assert bytes(taken) == b"".join(pieces)
        assert response.all_taken

        def refuse(_: bytes) -> bool:
            raise ValueError("no")

        response = await ask(upstream, it)
        with pytest.raises(ValueError, match="no"):
            await response.pour(refuse)
        response.close()
