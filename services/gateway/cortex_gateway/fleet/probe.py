"""One neuron under watch: its connection, the poll that is under way, and what it said last.

Owns: a poll's steps, and when discovery is asked again: with each new connection, so after every silence; where the
version is another; and now and then, for a host's hardware may change. Does not own: when to poll (poller.py) or what
to believe (beliefs.py). Called by: poller.py.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from pydantic import ValidationError

from cortex_contracts.wire.neuron import Discovery, ModelRow
from cortex_gateway.fleet.beliefs import Report
from cortex_gateway.fleet.client import NeuronClient, NeuronRefused, NeuronUnreachable
from cortex_gateway.fleet.condition import Condition
from cortex_gateway.fleet.connection import Connection
from cortex_gateway.fleet.reply import Reply
from cortex_gateway.fleet.snapshot import Reach

_DISCOVERY_S = 300.0  # at most so old; a little less by chance, that not all are asked at once


class _Said(msgspec.Struct):
    """A wire.neuron.Report whose rows are still to be read."""

    health: Condition
    models: list[msgspec.Raw]


_split = msgspec.json.Decoder(_Said).decode


class Probe:
    """`answered` is called with each poll's report, `missed` with the reason why there is none."""

    def __init__(
        self,
        name: str,
        url: str,
        client: NeuronClient,
        answered: Callable[[Probe, Report], None],
        missed: Callable[[Probe, str], None],
    ) -> None:
        self.name, self.url = name, url
        self.reach = Reach.UNKNOWN  # as the log has it
        self.asked_at = math.inf  # loop time of the poll that is under way; none is
        self.next_at = 0.0
        self.asked_once = asyncio.Event()
        self._client, self._tell_answer, self._tell_miss = client, answered, missed
        self._request = _get(f"{url}/report")
        self._connection: Connection | None = None
        self._kept = False  # whether the connection had been kept since an earlier poll
        self._meeting: asyncio.Task[None] | None = None
        self._discovery: Discovery | None = None
        self._discovery_until = 0.0
        self._body = b""
        self._said_rows: list[bytes] = []
        self._rows: tuple[ModelRow, ...] = ()
        self._report: Report | None = None

    def ask(self, now: float) -> None:
        """Begin a poll; it ends in `answered` or `missed`, or with `give_up`."""
        self.asked_at = now
        if self._connection is None or not self._connection.is_open or now >= self._discovery_until:
            self._meet()
        else:
            self._kept = True
            self._connection.ask(self._request, b"", Reply(self._answered, self._lost))

    def give_up(self, reason: str) -> None:
        """End the poll that is under way without an answer; the next begins with a new connection."""
        self.close()
        self._tell_miss(self, f"GET {self.url}/report: {reason}")

    def close(self) -> None:
        """Ask nothing any more, and tell nothing."""
        self.asked_at, self._kept = math.inf, False
        self.asked_once.set()
        if self._meeting is not None:
            self._meeting.cancel()
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    # ---- a new connection

    def _meet(self) -> None:
        self._kept = False
        self._meeting = asyncio.create_task(self._discover_and_ask())

    async def _discover_and_ask(self) -> None:
        try:
            self._discovery = await self._client.discovery(self.url)
            if self._connection is None or not self._connection.is_open:
                self._connection = await Connection.open(self.url, _kept)
        except (NeuronUnreachable, NeuronRefused, OSError) as failure:
            self._meeting = None  # this one, which need not be cancelled
            self.give_up(str(failure))
            return
        self._meeting = None
        age_s = _DISCOVERY_S * random.uniform(0.6, 1)  # noqa: S311  spreads load, guards nothing
        self._discovery_until = asyncio.get_running_loop().time() + age_s
        self._body = b""  # what was read before was read with another discovery
        self._connection.ask(self._request, b"", Reply(self._answered, self._lost))

    # ---- the connection's answers

    def _answered(self, status: int, body: bytes) -> None:
        if status != 200:
            self.give_up(f"answered {status}")
            return
        if body != self._body:  # an idle neuron says the same again
            try:
                self._report = self._read(body)
            except (ValidationError, msgspec.MsgspecError) as failure:
                self.give_up(f"not the answer of a neuron: {failure}")
                return
            self._body = body
        assert self._report is not None
        self.asked_at = math.inf
        self.asked_once.set()
        self._tell_answer(self, self._report)

    def _read(self, body: bytes) -> Report:
        said = _split(body)
        assert self._discovery is not None
        if said.health.version != self._discovery.version:
            self._discovery_until = 0.0
        return Report(discovery=self._discovery, health=said.health, models=self._read_rows(said.models))

    def _read_rows(self, said: list[msgspec.Raw]) -> tuple[ModelRow, ...]:
        """Most models of most polls are where they were: the same bytes give the same row, and all the same tuple."""
        said_rows = [bytes(row) for row in said]
        if said_rows != self._said_rows:
            known = dict(zip(self._said_rows, self._rows, strict=True))
            self._rows = tuple(known.get(row) or ModelRow.model_validate_json(row) for row in said_rows)
            self._said_rows = said_rows
        return self._rows

    def _lost(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        if self.asked_at == math.inf or self._meeting is not None:
            return  # nobody waits for it
        if self._kept:  # it may have been closed for its idleness while the request was on its way: that is no strike
            self._meet()
        else:
            self.give_up(reason)


def _kept(_connection: Connection) -> None:
    """A probe looks at its connection before it asks."""


def _get(url: str) -> bytes:
    parts = urlsplit(url)
    return (
        f"GET {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        "accept: application/json\r\naccept-encoding: identity\r\n\r\n"
    ).encode()
