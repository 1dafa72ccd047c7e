"""Asking hosts over real sockets: well ones, and each way of being none."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Fleet, GatewayHost, NeuronHost
from cortex_contracts.wire import gateway
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_status.fleet_status.asking import ANSWER_LIMIT, NEURON_ENDPOINTS, ask
from cortex_status.fleet_status.observed import (
    CatalogueEntry,
    GatewayHealth,
    GatewayVersion,
    Location,
    NeuronBelief,
    NeuronSeen,
    Silence,
)

Answers = dict[str, Any]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Answers], Awaitable[int]]
Listen = Callable[[Handler], Awaitable[int]]

TIMEOUT_S = 0.5
SOON_S = 5.0  # far above TIMEOUT_S for a busy machine, far below any timeout of a library or a kernel


def fleet_of(*ports: int, addresses: tuple[str, ...] = ()) -> Fleet:
    """Neurons of this machine at these ports, then neurons at these addresses."""
    here = [NeuronHost(name=f"n{number}", address="127.0.0.1", port=port) for number, port in enumerate(ports)]
    there = [NeuronHost(name=address, address=address) for address in addresses]
    return Fleet(gateways=(), neurons=(*here, *there), models=())


async def ask_neuron(port: int, timeout_s: float = SOON_S) -> NeuronSeen:
    return (await ask(fleet_of(port), timeout_s)).neurons[0]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses: bound, so that nobody else takes it, and never listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def never_answers(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def says(data: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()

    return handler


async def test_all_that_a_neuron_says_is_read(serve: Serve, neuron_answers: Answers) -> None:
    """Every endpoint of the contract is asked and its answer kept."""
    seen = await ask_neuron(await serve(neuron_answers))
    assert seen.problems == []
    assert seen.answers
    assert seen.version == "0.1.0"
    assert seen.health is not None
    assert seen.health.state is NeuronState.READY
    assert seen.health.models[0].in_flight == 5
    assert seen.models is not None
    assert [row.status for row in seen.models] == [ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.UNLOADED]
    assert seen.discovery is not None
    assert seen.discovery.devices[1].vram_total_mb == 32768
    assert seen.version_answer is not None
    assert seen.version_answer.protocol == 1


async def test_all_that_a_gateway_says_is_read(serve: Serve, gateway_answers: Answers) -> None:
    """Its health with what it believes of neurons, and its catalogue with locations."""
    host = GatewayHost(name="gw", address="127.0.0.1", listen=f"0.0.0.0:{await serve(gateway_answers)}")
    seen = (await ask(Fleet(gateways=(host,), neurons=(), models=()), SOON_S)).gateways[0]
    assert seen.problems == []
    assert seen.health is not None
    assert seen.health.neurons is not None
    assert seen.health.neurons[0].healthy is True
    assert seen.catalogue is not None
    assert seen.catalogue.data[0].locations[0].in_flight == 6
    assert seen.version_answer is not None
    assert (seen.version_answer.release, seen.version_answer.files) == ("r1", {"cortex.toml": "5e1f"})


def test_the_answers_these_tests_play_are_the_contracts(gateway_answers: Answers, neuron_answers: Answers) -> None:
    """A played host that no real one resembles would prove nothing; neither would a name that no gateway sends."""
    contracts = {GatewayHealth: gateway.GatewayHealth, NeuronBelief: gateway.NeuronSeen, Location: gateway.Location}
    contracts |= {GatewayVersion: gateway.GatewayVersion}
    for ours, theirs in {**contracts, CatalogueEntry: gateway.ModelEntry}.items():
        assert set(ours.model_fields) <= set(theirs.model_fields)
    gateway.GatewayHealth.model_validate(gateway_answers["/health"])
    gateway.GatewayVersion.model_validate(gateway_answers["/version"])
    gateway.ModelCatalogue.model_validate(gateway_answers["/v1/models"])
    for path, shape in NEURON_ENDPOINTS.values():
        shape.validate_python(neuron_answers[path])


async def test_a_gateway_of_another_version_is_read_as_far_as_it_goes(serve: Serve) -> None:
    """Keys that are missing or new are no reason to call a gateway broken."""
    port = await serve(
        {"/health": {"status": "ok", "moon": "full"}, "/v1/models": {"data": [{"id": "m"}]}, "/version": {}}
    )
    host = GatewayHost(name="gw", address="127.0.0.1", listen=f"0.0.0.0:{port}")
    seen = (await ask(Fleet(gateways=(host,), neurons=(), models=()), SOON_S)).gateways[0]
    assert seen.problems == []
    assert seen.health is not None
    assert seen.health.neurons is None


async def test_a_gateway_is_asked_with_the_inventory_s_key(listen: Listen) -> None:
    """Where keys are declared it shows its catalogue to nobody else."""
    heard: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))

    address = {"name": "gw", "address": "127.0.0.1", "listen": f"127.0.0.1:{await listen(handler)}"}
    asked = GatewayHost.model_validate({**address, "admin_key": "an-admin-key-0123"})
    await ask(Fleet(gateways=(asked,), neurons=(), models=()), SOON_S)
    assert b"authorization: bearer an-admin-key-0123" in heard[0].lower()


async def test_a_port_where_nobody_listens_is_refused(closed_port: int) -> None:
    """The commonest of all: the service is not running."""
    seen = await ask_neuron(closed_port)
    assert [(problem.reason, problem.message) for problem in seen.problems] == [(Silence.REFUSED, "Connection refused")]
    assert not seen.answers


async def test_a_host_that_accepts_and_never_answers_is_given_up_at_the_deadline(listen: Listen) -> None:
    """A wedged daemon holds the connection open; the wait ends at the timeout, not at a library's five minutes."""
    port = await listen(never_answers)
    began = time.monotonic()
    seen = await ask_neuron(port, TIMEOUT_S)
    assert TIMEOUT_S <= time.monotonic() - began < SOON_S
    assert [problem.reason for problem in seen.problems] == [Silence.TIMED_OUT]
    assert "0.5 s" in seen.problems[0].message


async def test_dead_hosts_delay_nobody(serve: Serve, listen: Listen, neuron_answers: Answers) -> None:
    """Thirty wedged hosts cost one timeout, and the live one is read in full."""
    wedged = await listen(never_answers)
    alive = await serve(neuron_answers)
    began = time.monotonic()
    observed = await ask(fleet_of(*[wedged] * 30, alive), TIMEOUT_S)
    assert time.monotonic() - began < SOON_S
    assert [seen.answers for seen in observed.neurons] == [False] * 30 + [True]
    assert observed.neurons[-1].problems == []


async def test_names_that_resolve_slowly_delay_nobody(
    serve: Serve, neuron_answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are resolved in threads; more slow names than the default has threads leave the live host its own."""
    resolve, over = socket.getaddrinfo, threading.Event()

    def slow_or_real(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "live":
            return resolve("127.0.0.1", *arguments, **options)
        over.wait(SOON_S)
        raise socket.gaierror(socket.EAI_NONAME, "gone")

    monkeypatch.setattr(socket, "getaddrinfo", slow_or_real)
    slow = tuple(f"slow{number}" for number in range(64))
    live = NeuronHost(name="live", address="live", port=await serve(neuron_answers))
    fleet = fleet_of(addresses=slow)
    try:
        observed = await ask(fleet.model_copy(update={"neurons": (*fleet.neurons, live)}), 1.0)
    finally:
        over.set()
    assert observed.neurons[-1].problems == []
    assert {seen.problems[0].reason for seen in observed.neurons[:-1]} == {Silence.TIMED_OUT}


async def test_a_name_that_does_not_exist_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt host is a row with the resolver's words; no name server is asked here."""

    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    (problem,) = (await ask(fleet_of(addresses=("nowhere",)), SOON_S)).neurons[0].problems
    assert (problem.reason, problem.message) == (Silence.UNREACHABLE, "nowhere: Name or service not known")


async def test_an_address_that_cannot_be_one_is_unreachable() -> None:
    """A name that is refused before anyone is asked for it is a row too, not a crash."""
    (problem,) = (await ask(fleet_of(addresses=("..",)), SOON_S)).neurons[0].problems
    assert problem.reason is Silence.UNREACHABLE
    assert problem.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\x01 SSH-2.0-hello\r\n\r\n", "Bad status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7", "object"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"uptime_secs": 1}', "state: Field required"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "not completed"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "HTTP status 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "HTTP status 302"),
    ],
    ids=["not-http", "not-json", "wrong-shape", "missing-key", "cut-short", "status-503", "redirect"],
)
async def test_garbage_is_a_bad_answer_in_words(listen: Listen, data: bytes, words: str) -> None:
    """Whatever listens on that port, the row says what was wrong with its answer."""
    seen = await ask_neuron(await listen(says(data)))
    assert not seen.answers
    assert seen.problems[0].reason is Silence.BAD_ANSWER
    assert seen.problems[0].endpoint == "/health"
    assert words in seen.problems[0].message
    assert "\n" not in seen.problems[0].message


async def test_an_answer_without_end_is_cut_off(listen: Listen) -> None:
    """A host that streams for ever does not fill this machine's memory."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(b"HTTP/1.1 200 OK\r\n\r\n")(reader, writer)
        while True:
            writer.write(bytes(2**20))
            await writer.drain()

    seen = await ask_neuron(await listen(endless), 30.0)
    assert seen.problems[0].message == f"more than {ANSWER_LIMIT} bytes"


async def test_one_bad_endpoint_leaves_the_others_their_answers(serve: Serve, neuron_answers: Answers) -> None:
    """A neuron whose /models is broken still shows its devices and health."""
    neuron_answers["/models"] = {"models": []}
    seen = await ask_neuron(await serve(neuron_answers))
    assert [(problem.reason, problem.endpoint) for problem in seen.problems] == [(Silence.BAD_ANSWER, "/models")]
    assert seen.models is None
    assert seen.discovery is not None
    assert seen.version_answer is not None


async def test_what_came_before_the_deadline_is_kept(listen: Listen, neuron_answers: Answers) -> None:
    """A neuron that wedges after /health is shown with its health, and timed out at what follows."""
    body = json.dumps(neuron_answers["/health"]).encode()

    async def wedges(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))(reader, writer)
        await reader.read()

    seen = await ask_neuron(await listen(wedges), TIMEOUT_S)
    assert seen.health is not None
    assert [(problem.reason, problem.endpoint) for problem in seen.problems] == [(Silence.TIMED_OUT, "/models")]


async def test_cancelling_stops_asking(listen: Listen) -> None:
    """Ctrl-C does not wait for the slow hosts."""
    asking = asyncio.ensure_future(ask(fleet_of(await listen(never_answers)), 60.0))
    done, _ = await asyncio.wait((asking,), timeout=0.1)
    assert not done
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, SOON_S)


async def test_a_drained_gateway_says_how_it_is_with_a_503(listen: Listen, gateway_answers: Answers) -> None:
    """Load balancers leave by the status; an operator still sees what it says of itself."""
    body = json.dumps(gateway_answers["/health"] | {"status": "draining"}).encode()
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    port = await listen(says(head % len(body) + body))
    fleet = Fleet(
        gateways=(GatewayHost(name="gw", address="127.0.0.1", listen=f"127.0.0.1:{port}"),), neurons=(), models=()
    )
    (gateway,) = (await ask(fleet, SOON_S)).gateways
    assert gateway.health is not None
    assert gateway.health.status == "draining"
