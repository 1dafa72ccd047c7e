"""Every request ends in exactly one line of the log, however far it came (case S12)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gateway_process import CHAT, RunningGateway, model_entry, running, until
from http_bytes import answer_to, post, send_and_leave
from neuron_process import RunningNeuron
from neuron_process import until as until_true
from scripted_neuron import Fault, ScriptedNeuron, scripted

BROKEN_OFF = {
    "half a header": b"POST /v1/chat/completions HTTP/1.1\r\nhost:",
    "half a body": post(CHAT, length=1000),
    "half a chunk": b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n100\r\nabc",
}
REFUSED = {
    "no HTTP": (b"GARBAGE\r\n\r\n", 400, "invalid_request"),
    "an unknown version": (b"GET / HTTP/3.9\r\n\r\n", 400, "invalid_request"),
    "a header too large": (post(CHAT, x_large="a" * 20_000), 431, "invalid_request"),
    "a length that is none": (post(CHAT, length="abc"), 400, "invalid_request"),
    "a body too large": (post(CHAT, length=10**9), 413, "body_too_large"),
    "an expectation": (post(CHAT, expect="200-maybe"), 417, "invalid_request"),
    "no such route": (post("/v1/none", connection="close"), 404, "route_not_found"),
    "no such method": (b"PUT /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405, "method_not_allowed"),
    "no JSON": (post(CHAT, b"{", connection="close"), 400, "invalid_json"),
}


def requests_of(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in log if line["event"] == "request"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[ScriptedNeuron, RunningGateway]]:
    entries = [model_entry("m"), model_entry("cold")]
    async with (
        scripted("one", "m") as neuron,
        running(tmp_path_factory.mktemp("gateway"), [neuron], entries) as gateway,
    ):
        yield neuron, gateway


class Lines:
    """The gateway's terminal lines since the test began."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway, self._before = gateway, len(requests_of(gateway.log))

    async def only(self) -> dict[str, Any]:
        """The one line; another request's line, later, shows that there was no second."""
        await until(lambda: len(requests_of(self._gateway.log)) > self._before)
        headers = {"x-request-id": "the-last-one"}
        async with self._gateway.http.get(f"{self._gateway.url}/nowhere", headers=headers) as response:
            assert response.status == 404
        await until(lambda: requests_of(self._gateway.log)[-1]["request_id"] == "the-last-one")
        (line,) = requests_of(self._gateway.log)[self._before : -1]
        return line


@pytest_asyncio.fixture
async def lines(both: tuple[ScriptedNeuron, RunningGateway]) -> Lines:
    both[0].fault = Fault.NONE
    return Lines(both[1])


@pytest.mark.parametrize("what", BROKEN_OFF)
async def test_a_request_that_is_broken_off_has_its_line(
    both: tuple[ScriptedNeuron, RunningGateway], lines: Lines, what: str
) -> None:
    """No handler has seen it, and nobody waits for an answer."""
    await send_and_leave(both[1].url, BROKEN_OFF[what])
    line = await lines.only()
    assert (line["outcome"], line["client_gone"], line["status"]) == ("client_gone", True, 0)


@pytest.mark.parametrize("what", REFUSED)
async def test_a_request_that_is_refused_has_its_line(
    both: tuple[ScriptedNeuron, RunningGateway], lines: Lines, what: str
) -> None:
    """Also by the HTTP server, before there is a handler."""
    data, status, code = REFUSED[what]
    answer = await answer_to(both[1].url, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    line = await lines.only()
    assert (line["status"], line["code"], line["outcome"]) == (status, code, "client_error")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"model":"cold","messages":[]}', Fault.NONE),
        (b'{"model":"m","messages":[]}', Fault.HANG),
        (b'{"model":"m","messages":[],"stream":true}', Fault.SLOW),
    ],
)
async def test_a_client_that_leaves_has_its_line(
    both: tuple[ScriptedNeuron, RunningGateway], lines: Lines, body: bytes, fault: Fault
) -> None:
    """While its model is loaded, before the first word, and while it is answered."""
    neuron, gateway = both
    neuron.fault, neuron.load_s, neuron.pace_s = fault, 600.0, 0.3
    busy = len(neuron.sent) + len(neuron.loads)
    asking = asyncio.create_task(answer_to(gateway.url, post(CHAT, body)))
    await until(lambda: len(neuron.sent) + len(neuron.loads) > busy)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await lines.only())["outcome"] == "client_gone"


async def test_shutdown_leaves_nobody_without_a_line(tmp_path: Path) -> None:
    """Who waits for a load, who waits for a first word, who is being answered, and who comes too late."""
    async with (
        scripted("one", "m") as neuron,
        running(tmp_path, [neuron], [model_entry("m"), model_entry("cold")], drain_timeout_s=0.5) as gateway,
    ):
        neuron.load_s, asking = 600.0, []
        for fault, body in (
            (Fault.NONE, b'{"model":"cold","messages":[]}'),
            (Fault.HANG, b'{"model":"m","messages":[]}'),
            (Fault.STALL, b'{"model":"m","messages":[],"stream":true}'),
        ):
            neuron.fault, busy = fault, len(neuron.sent) + len(neuron.loads)
            asking.append(asyncio.create_task(answer_to(gateway.url, post(CHAT, body))))
            await until(lambda: len(neuron.sent) + len(neuron.loads) > busy)  # noqa: B023  waited for at once
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.logged("stopping")
        asking.append(asyncio.create_task(answer_to(gateway.url, post(CHAT))))
        await asyncio.gather(*asking)
        await gateway.process.wait()
        await until(lambda: len(requests_of(gateway.log)) == len(asking))
    found = requests_of(gateway.log)
    assert len(found) == len({line["request_id"] for line in found}) == len(asking)
    assert {line["code"] for line in found} == {"shutting_down"}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (post("/v1/none", connection="close", x_request_id="n-404"), "route_not_found"),
        (post("/v1/messages/count_tokens", b"{", connection="close", x_request_id="n-count"), "invalid_json"),
        (post(CHAT, length=10**9, x_request_id="n-large"), "body_too_large"),
    ],
)
async def test_a_neuron_too_has_a_line_for_what_it_refuses(scripted: RunningNeuron, data: bytes, code: str) -> None:
    """Whether a handler has seen it or not."""
    await answer_to(scripted.url, data)
    request_id = data.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    assert (await scripted.line_of(request_id))["code"] == code


async def test_a_neuron_has_a_line_for_half_a_body(scripted: RunningNeuron) -> None:
    """Its client has left before anything could be asked."""
    await send_and_leave(scripted.url, post(CHAT, length=1000, x_request_id="n-half"))

    async def is_there() -> bool:
        return any(line.get("request_id") == "n-half" for line in scripted.log())

    await until_true(is_there)
    assert (await scripted.line_of("n-half"))["client_gone"] is True
