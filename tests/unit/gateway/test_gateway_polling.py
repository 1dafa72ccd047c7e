"""Polling: one request on a kept connection, whatever a neuron makes of HTTP, and no neuron at another's cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from raw_neuron import RawNeuron, raw_neuron, report, sized

from cortex_contracts.inventory.files import NeuronAddress
from cortex_contracts.wire import neuron as wire
from cortex_contracts.wire.neuron import NeuronState
from cortex_gateway.fleet import condition
from cortex_gateway.fleet.beliefs import Beliefs, Report
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.poller import POLL_TIMEOUT_S, Poller
from cortex_gateway.fleet.snapshot import NeuronView, Reach

DRAINING = report(state="draining")
MODEL = {"id": "m", "harness": "torch", "status": "loaded"}


class Heard(Beliefs):
    """Beliefs that keep what they were told."""

    def __init__(self, neurons: list[RawNeuron]) -> None:
        super().__init__([NeuronAddress(name=str(number), url=neuron.url) for number, neuron in enumerate(neurons)])
        self.reports: list[Report] = []
        self.strikes = 0

    def answered(self, name: str, report: Report, ours: Mapping[tuple[str, str], int]) -> None:
        self.reports.append(report)
        super().answered(name, report, ours)

    def strike(self, name: str) -> int:
        self.strikes += 1
        return super().strike(name)

    def view(self, number: int = 0) -> NeuronView:
        return self.snapshot().neurons[str(number)]


@asynccontextmanager
async def polled(
    *neurons: RawNeuron, interval_s: float = 0.02, ours: Outstanding | None = None
) -> AsyncIterator[tuple[Heard, Poller]]:
    """A poller that has asked each once."""
    beliefs = Heard(list(neurons))
    async with NeuronClient(POLL_TIMEOUT_S) as client:
        poller = Poller(beliefs, client, Outstanding() if ours is None else ours)
        try:
            await poller.watch([(view.name, view.url) for view in beliefs.snapshot().neurons.values()], interval_s)
            yield beliefs, poller
        finally:
            await poller.stop()


async def until(is_so: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.005)


async def test_every_poll_is_one_request_on_one_connection() -> None:
    """And discovery is asked once."""
    async with raw_neuron() as neuron, polled(neuron) as (beliefs, _):
        await until(lambda: len(beliefs.reports) >= 10)
        assert beliefs.view().reach is Reach.UP
        assert (neuron.connections, neuron.discoveries, beliefs.strikes) == (1, 1, 0)


async def test_what_says_the_same_again_is_not_read_again() -> None:
    """It is the bytes that are compared; what is new is read."""
    async with raw_neuron() as neuron, polled(neuron) as (beliefs, _):
        await until(lambda: len(beliefs.reports) >= 5)
        assert len({id(each) for each in beliefs.reports}) == 1
        neuron.answer = [sized(DRAINING)]
        await until(lambda: beliefs.view().state is NeuronState.DRAINING)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%b\r\n" % (len(part), part) for part in (DRAINING[:10], DRAINING[10:])]


@pytest.mark.parametrize(
    "answer",
    [
        [CHUNKED + b"".join(CHUNKS) + b"0\r\n\r\n"],
        [CHUNKED, *CHUNKS, b"0\r\n", b"x-trailer: 1\r\n\r\n"],
        [bytes([byte]) for byte in sized(DRAINING)],
        [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", sized(DRAINING)],
    ],
    ids=["chunked", "chunked in pieces", "byte by byte", "after an interim answer"],
)
async def test_an_answer_may_come_in_any_form_that_http_knows(answer: list[bytes]) -> None:
    """And the connection is good for the next."""
    async with raw_neuron(answer=answer) as neuron, polled(neuron) as (beliefs, _):
        await until(lambda: len(beliefs.reports) >= 3)
        assert beliefs.view().state is NeuronState.DRAINING
        assert (neuron.connections, beliefs.strikes) == (1, 0)


CLOSING = "HTTP/1.1 200 OK\r\nconnection: close"


@pytest.mark.parametrize(
    ("habit", "asked_on_each"),
    [({"answer": [sized(report(), CLOSING)]}, 1), ({"answers": 1}, 2)],
    ids=["connection: close", "closed while idle"],
)
async def test_a_connection_that_ends_between_two_polls_is_no_strike(habit: dict[str, Any], asked_on_each: int) -> None:
    """A neuron or a proxy may keep connections for less long than the gateway's interval."""
    async with raw_neuron(**habit) as neuron, polled(neuron) as (beliefs, _):
        await until(lambda: len(beliefs.reports) >= 5)
        assert beliefs.strikes == 0
        assert neuron.connections >= 5
        assert neuron.reports <= asked_on_each * neuron.connections


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [sized(b'{"error": {}}', "HTTP/1.1 500 Internal Server Error")],
        [sized(b'{"health": 1}')],
        [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 900000000\r\n\r\n", *([b"x" * 2**20] * 9)],
    ],
    ids=["hangs up", "no HTTP", "500", "no report", "101", "endless"],
)
async def test_what_is_no_answer_is_a_strike_and_three_are_the_end(answer: list[bytes] | None) -> None:
    """At once, without waiting for more; and any good one resets (case L4)."""
    began = time.monotonic()
    async with raw_neuron(answer=answer) as neuron, polled(neuron) as (beliefs, _):
        await until(lambda: beliefs.view().reach is Reach.DOWN)
        assert time.monotonic() - began < POLL_TIMEOUT_S
        assert beliefs.strikes >= 3
        neuron.answer = [sized(report())]
        await until(lambda: beliefs.view().reach is Reach.UP)
        assert beliefs.view().strikes == 0


async def test_a_silent_neuron_delays_nobody() -> None:
    """The others are polled on at their pace, and it is struck for its silence."""
    async with raw_neuron(answer=[]) as silent, raw_neuron() as well:
        began = time.monotonic()
        async with polled(silent, well) as (beliefs, _):
            assert beliefs.strikes == 1
            assert time.monotonic() - began < POLL_TIMEOUT_S + 1
            assert well.reports > POLL_TIMEOUT_S / 0.02 / 3
            assert beliefs.view(1).reach is Reach.UP


async def test_discovery_is_asked_again_after_a_silence_and_of_another_version() -> None:
    """The host may be another by then."""
    async with raw_neuron() as neuron, polled(neuron) as (beliefs, _):
        neuron.hang_up()
        await until(lambda: neuron.discoveries == 2)
        neuron.version, neuron.answer = "2", [sized(report("2"))]
        await until(lambda: neuron.discoveries == 3)
        await until(lambda: beliefs.reports[-1].discovery.version == "2")
        polls = neuron.reports
        await until(lambda: neuron.reports >= polls + 5)
        assert neuron.discoveries == 3


async def test_a_kick_is_a_poll_at_once_and_many_are_few() -> None:
    """Forwarding kicks with every request that fails."""
    async with raw_neuron() as neuron, polled(neuron, interval_s=60) as (_, poller):
        began = time.monotonic()
        poller.kick("0")
        await until(lambda: neuron.reports == 2)
        while time.monotonic() - began < 0.5:
            poller.kick("0")
            poller.kick("nobody")
            await asyncio.sleep(0.001)
        assert 3 < neuron.reports <= 2 + 0.5 / 0.02


async def test_a_kick_during_a_poll_is_another_after_it() -> None:
    """That one was asked before there was a reason to doubt."""
    async with raw_neuron() as neuron, raw_neuron() as other, polled(neuron, other, interval_s=60) as (beliefs, poller):
        neuron.free.clear()
        poller.kick("0")
        await until(lambda: neuron.reports == 2)
        poller.kick("0")
        poller.kick("1")
        await until(lambda: other.reports == 2)  # so the kick has been looked at
        neuron.answer = [sized(DRAINING)]
        neuron.free.set()
        await until(lambda: neuron.reports == 3)
        assert beliefs.strikes == 0


async def test_a_request_of_ours_that_ends_while_a_report_is_on_its_way_is_nobody_else_s() -> None:
    """The report counts it still. As somebody else's it would hold its model in memory until the next one (L6)."""
    ours, seat = Outstanding(), ("0", "m")
    busy = report(models=[{"id": "m", "status": "loaded", "in_flight": 2}], rows=[MODEL])
    async with (
        raw_neuron(answer=[sized(busy)]) as neuron,
        polled(neuron, interval_s=60, ours=ours) as (beliefs, poller),
    ):
        assert beliefs.view().models["m"].elsewhere == 2
        for _ in range(2):
            ours.take(seat)
        neuron.free.clear()
        poller.kick("0")
        await until(lambda: neuron.reports == 2)
        ours.give_back(seat)
        neuron.free.set()
        await until(lambda: len(beliefs.reports) == 2)
        assert beliefs.view().models["m"].elsewhere == 0
        poller.kick("0")
        await until(lambda: len(beliefs.reports) == 3)
        assert beliefs.view().models["m"].elsewhere == 1


async def test_who_stays_is_watched_on_over_a_reload() -> None:
    """On the same connection; who is gone is left alone, who is new is asked at once."""
    async with (
        raw_neuron() as stays,
        raw_neuron() as goes,
        raw_neuron() as comes,
        polled(stays, goes) as (beliefs, poller),
    ):
        beliefs.set_neurons([NeuronAddress(name="0", url=stays.url), NeuronAddress(name="2", url=comes.url)])
        await poller.watch([("0", stays.url), ("2", comes.url)], 0.02)
        assert beliefs.view(2).reach is Reach.UP
        left_at = goes.reports
        await until(lambda: comes.reports > 5)
        assert (stays.connections, goes.reports) == (1, left_at)


@pytest.mark.parametrize(
    ("read", "contract"),
    [
        (condition.Condition, wire.Condition),
        (condition.DeviceCondition, wire.DeviceHealth),
        (condition.ModelCondition, wire.ModelHealth),
    ],
)
def test_what_is_read_of_a_report_is_in_the_contract(read: type[msgspec.Struct], contract: type[BaseModel]) -> None:
    """By the same names; what a neuron may leave out, the gateway does without."""
    for field in msgspec.structs.fields(read):
        promised = contract.model_fields[field.name]
        assert (field.required, field.default) == (promised.is_required(), _default(promised))


def _default(field: FieldInfo) -> Any:
    return msgspec.NODEFAULT if field.is_required() else field.default
