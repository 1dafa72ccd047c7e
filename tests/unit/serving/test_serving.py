"""Serving: one place turns exceptions into envelopes, and a stopping server lets running answers end."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from sanic import HTTPResponse, Request, text

from cortex_contracts.wire import errors
from cortex_serving import application, logs, server
from cortex_serving.request_body import check_media_type
from cortex_serving.server import CannotListen, Lifecycle, Listener, serve


async def _nothing() -> None:
    pass


@pytest.fixture
async def url(free_port: int) -> AsyncIterator[str]:
    app = application.build("probe", body_limit_mb=1)

    @app.post("/v1/messages", name="messages")
    @app.post("/v1/chat/completions", name="chat")
    async def echo(request: Request) -> HTTPResponse:
        return text(str(len(request.body)))

    @app.get("/page")
    async def page(_: Request) -> HTTPResponse:
        return text("page")

    @app.post("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond()
        await response.send("piece")

    @app.post("/typed")
    async def typed(request: Request) -> HTTPResponse:
        check_media_type(request)
        return text("")

    @app.get("/busy")
    async def busy(_: Request) -> HTTPResponse:
        raise errors.QueueFull("come again", retry_after_s=7)

    @app.get("/broken")
    async def broken(_: Request) -> HTTPResponse:
        raise RuntimeError("a secret of the inside")

    ready, done = asyncio.Event(), asyncio.Event()

    async def started() -> None:
        ready.set()

    lifecycle = Lifecycle(start=started, stop=_nothing)
    serving = asyncio.create_task(serve([Listener(app, "127.0.0.1", free_port)], lifecycle, stopping=done))
    await asyncio.wait_for(ready.wait(), 10)
    yield f"http://127.0.0.1:{free_port}"
    done.set()
    await asyncio.wait_for(serving, 10)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/busy", 503, "queue_full"),
        ("GET", "/broken", 500, "internal_error"),
    ],
)
async def test_every_failure_is_an_openai_envelope(url: str, method: str, path: str, status: int, code: str) -> None:
    """Whatever fails, the body is OpenAI's error object with a stable code (case W7)."""
    async with aiohttp.request(method, url + path) as answer:
        body = await answer.json()
    assert answer.status == status
    assert body["error"]["code"] == code
    assert answer.headers["x-request-id"]


async def test_the_anthropic_surface_speaks_anthropic_errors(url: str) -> None:
    """A 405 under /v1/messages has Anthropic's envelope (case W7)."""
    async with aiohttp.request("GET", url + "/v1/messages") as answer:
        body = await answer.json()
    assert (answer.status, body["type"], body["error"]["type"]) == (405, "error", "invalid_request_error")


@pytest.mark.parametrize("path", ["/nowhere", "/v1/messages/batches", "/v1/models/nobody", "/v1/v1/messages"])
async def test_a_client_that_says_it_is_anthropics_gets_anthropic_errors(url: str, path: str) -> None:
    """Where the path belongs to neither dialect, the header that each of Anthropic's SDKs sends decides (case W7)."""
    async with aiohttp.request("GET", url + path, headers={"anthropic-version": "2023-06-01"}) as answer:
        body = await answer.json()
    assert (answer.status, body["type"], body["error"]["type"]) == (404, "error", "not_found_error")


async def test_an_openai_path_speaks_openais_errors_whatever_the_headers(url: str) -> None:
    """A proxy that adds headers changes no envelope."""
    headers = {"anthropic-version": "2023-06-01"}
    async with aiohttp.request("GET", url + "/v1/chat/completions", headers=headers) as answer:
        assert "type" not in await answer.json()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/page"), ("POST", "/stream"), ("GET", "/nowhere"), ("POST", "/v1/messages")]
)
async def test_every_answer_has_the_requests_id(url: str, method: str, path: str) -> None:
    """Pages, streams and errors; under the name that Anthropic's SDK reads where the path is Anthropic's."""
    async with aiohttp.request(method, url + path, headers={"x-request-id": "abc-1"}) as answer:
        assert answer.headers.getall("x-request-id") == ["abc-1"]
        assert answer.headers.get("request-id") == ("abc-1" if path == "/v1/messages" else None)


async def test_a_header_that_is_too_large_is_not_called_a_body(url: str) -> None:
    """431, with the limit; a client that looks for a large body would look for ever."""
    headers = {"x-large": "x" * 20_000}
    async with aiohttp.request("GET", url + "/page", headers=headers) as answer:
        assert answer.status == 431
        assert (await answer.json())["error"]["message"] == "the request's header is larger than 8 KB"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET no\xe9where HTTP/1.1\r\n\r\n", 400),
        (b"GET nowhere HTTP/1.1\r\n\r\n", 400),
        (b"PO\xdc /page HTTP/1.1\r\n\r\n", 405),
        (b"PO\xdc /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"POST /page HTTP/1.1\r\nexpect: \x91\r\ncontent-length: 1\r\n\r\n", 417),
    ],
)
async def test_bytes_that_are_no_text_are_refused_in_an_envelope(
    url: str, sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In the URL, the method or a header: none makes an answer that cannot be sent, nor a traceback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(sent)
    head, _, body = (await asyncio.wait_for(reader.read(4096), 10)).partition(b"\r\n\r\n")
    writer.close()
    assert int(head.split()[1]) == status
    assert json.loads(body)["error"]["message"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_compressed_body_is_415_and_not_called_bad_json(url: str) -> None:
    """The words name the header, so that the client can mend it."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with aiohttp.request("POST", url + "/typed", headers=headers, data=b"\x1f\x8b") as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (415, "unsupported_media_type")
    assert "gzip" in error["message"]


async def test_retry_after_is_sent_where_asking_again_helps(url: str) -> None:
    """A 503 says when to come back."""
    async with aiohttp.request("GET", url + "/busy") as answer:
        assert answer.headers["retry-after"] == "7"


async def test_the_inside_of_an_unexpected_error_stays_in_the_log(url: str) -> None:
    """A client sees the request id, not our exception."""
    async with aiohttp.request("GET", url + "/broken", headers={"x-request-id": "abc-1"}) as answer:
        body = await answer.text()
    assert "secret" not in body
    assert "abc-1" in body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_body_over_the_limit_is_413_with_an_envelope(url: str, path: str) -> None:
    """2 MB where 1 MB is the limit: the dialect's own error, not a reset connection (cases W7, W12)."""
    async with aiohttp.request("POST", url + path, data=io.BytesIO(b"x" * (2 << 20))) as answer:
        body = await answer.json()
    assert answer.status == 413
    assert body["error"]["message"] == "the body is larger than 1 MB"


async def test_a_body_under_the_limit_passes_whole(url: str) -> None:
    """A body just under the limit arrives."""
    async with aiohttp.request("POST", url + "/v1/chat/completions", data=b"x" * 1_000_000) as answer:
        assert await answer.text() == "1000000"


async def test_a_taken_address_is_named() -> None:
    """CannotListen says which address is taken."""
    holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    listener = Listener(application.build("probe", 1), "127.0.0.1", port)
    with pytest.raises(CannotListen, match=f"127.0.0.1:{port}"):
        await serve([listener], Lifecycle(start=_nothing, stop=_nothing))
    holder.close()


def test_a_log_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Fields, level and traceback of a record are on one line of JSON."""
    record = logging.LogRecord("cortex", logging.INFO, __file__, 1, "request\nline", None, None)
    record.fields = {"status": 200, "path": Path("/x")}
    line = logs.JsonFormatter({}).format(record)
    assert "\n" not in line
    assert json.loads(line)["status"] == 200
    assert json.loads(line)["path"] == "/x"


_SLOW_SERVER = """
import asyncio, sys, uvloop
from sanic import text
from cortex_serving import application, logs, server
from cortex_serving.request_body import check_media_type
from cortex_serving.server import Lifecycle, Listener, serve

running, stopped = asyncio.Event(), asyncio.Event()
app = application.build("slow", 1)

@app.get("/slow")
async def slow(request):
    print("running", flush=True)
    await stopped.wait()
    return text("whole")

async def start():
    print("started", flush=True)

async def stop():
    print("stopping", flush=True)
    stopped.set()

uvloop.run(serve([Listener(app, "127.0.0.1", int(sys.argv[1]))], Lifecycle(start=start, stop=stop)))
"""


async def test_sigterm_lets_a_running_answer_end(free_port: int) -> None:
    """SIGTERM in the middle of a request: the answer arrives whole, and the process exits 0 (case L8)."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SLOW_SERVER, str(free_port), stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert server.stdout is not None
    assert await asyncio.wait_for(server.stdout.readline(), 20) == b"started\n"
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(_read(session, f"http://127.0.0.1:{free_port}/slow"))
        assert await asyncio.wait_for(server.stdout.readline(), 20) == b"running\n"
        server.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(asking, 20) == "whole"
    assert await asyncio.wait_for(server.wait(), 20) == 0


async def _read(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        return await answer.text()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_a_client_that_reads_no_more_does_not_keep_its_seat(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that went to sleep in the middle of a stream: its handler is cancelled, as if it had left (case S8)."""
    monkeypatch.setattr(server, "_UNREAD_S", 1)
    app = application.build("stalled", body_limit_mb=1)
    ready, gone, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.get("/")
    async def endless(request: Request) -> None:
        response = await request.respond()
        try:
            while True:
                await response.send("x" * 65536)
        except asyncio.CancelledError:
            gone.set()
            raise

    async def started() -> None:
        ready.set()

    lifecycle = Lifecycle(start=started, stop=_nothing)
    serving = asyncio.create_task(serve([Listener(app, "127.0.0.1", free_port)], lifecycle, stopping=done))
    await asyncio.wait_for(ready.wait(), 10)
    with socket.create_connection(("127.0.0.1", free_port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(gone.wait(), 20)
    done.set()
    await asyncio.wait_for(serving, 10)
