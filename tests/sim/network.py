"""What lies between gateways and simulated neurons: latency, refused connections, silence; in place of the two classes
with which the gateway reaches the network, NeuronClient and Upstream.

Owns: how a neuron's life shows at the other end of a connection, as a gateway meets it. Does not own:
what the neuron does (neuron.py). Tells the witness of everything that passes. Called by: simulation.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TypeVar, cast

import msgspec
from tests.sim.answer import SimAnswer, serve
from tests.sim.neuron import Life, SimNeuron
from tests.sim.witness import Said, Witness

from cortex_contracts.wire import neuron as wire
from cortex_contracts.wire.errors import CortexError
from cortex_gateway.fleet.client import NeuronClient, NeuronRefused, NeuronUnreachable
from cortex_gateway.fleet.poller import POLL_TIMEOUT_S
from cortex_gateway.forwarding.response import CannotConnect, Response
from cortex_gateway.forwarding.upstream import Upstream

_LATENCY_S = (0.0002, 0.002)
_COMMAND_TIMEOUT_S = 60.0
polling: ContextVar[str] = ContextVar("polling")  # the gateway whose poller runs: a connection does not tell
_Answer = TypeVar("_Answer")


class Network:
    """Every neuron by its URL, and the way there."""

    def __init__(self, rng: random.Random, witness: Witness) -> None:
        self.neurons: dict[str, SimNeuron] = {}
        self.witness = witness
        self._rng = rng

    def latency_s(self, neuron: SimNeuron) -> float:
        """How long one way takes."""
        return self._rng.uniform(*_LATENCY_S) * neuron.lag

    async def cross(self, neuron: SimNeuron) -> None:
        """One way between a gateway and a neuron."""
        await asyncio.sleep(self.latency_s(neuron))

    async def reach(self, url: str) -> SimNeuron:
        """The neuron, once it reads what it is sent. Raises ConnectionRefusedError."""
        neuron = self.neurons.get(url)
        if neuron is None:
            raise ConnectionRefusedError(f"nothing listens at {url}")
        await self.cross(neuron)
        while neuron.life in (Life.HUNG, Life.CUT_OFF):
            await neuron.changed.wait()
        if neuron.life is Life.DEAD:
            raise ConnectionRefusedError(f"{url} refuses connections")
        return neuron

    async def connect(self, protocol: asyncio.Protocol, host: str, port: int) -> asyncio.Transport:
        """A connection for polls. Raises OSError. One that hangs has a kernel that takes connections all the same."""
        neuron = self.neurons.get(f"http://{host}:{port}")
        if neuron is None or neuron.life is Life.DEAD:
            raise ConnectionRefusedError(f"{host} refuses connections")
        await self.cross(neuron)
        return PollConnection(neuron, protocol, self, polling.get())


class PollConnection(asyncio.Transport):
    """What a gateway asks for reports on: each write is a request, each answer the neuron's report."""

    def __init__(self, neuron: SimNeuron, protocol: asyncio.Protocol, network: Network, gateway: str) -> None:
        super().__init__()
        self._neuron, self._protocol, self._network, self._gateway = neuron, protocol, network, gateway
        neuron.connections.add(protocol)

    def is_closing(self) -> bool:
        return self._protocol not in self._neuron.connections

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        assert bytes(data).startswith(b"GET /report "), data
        asyncio.get_running_loop().call_later(self._network.latency_s(self._neuron), self._read)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._neuron.connections.discard(self._protocol)

    def _read(self) -> None:
        """The request is there. Who hangs or is cut off answers nobody; a gateway asks anew on another connection."""
        if self._neuron.life is Life.UP and not self.is_closing():
            said = self._network.witness.saying(self._neuron)
            body = self._neuron.report_json()
            asyncio.get_running_loop().call_later(self._network.latency_s(self._neuron), self._deliver, said, body)

    def _deliver(self, said: Said, body: bytes) -> None:
        if self._neuron.life is Life.UP and not self.is_closing():
            self._network.witness.reported(self._gateway, self._neuron, said)
            self._protocol.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


class SimClient:
    """The control API of every neuron, as one gateway asks it. In place of NeuronClient."""

    def __init__(self, gateway: str, network: Network) -> None:
        self._gateway, self._network, self._witness = gateway, network, network.witness

    def as_client(self) -> NeuronClient:
        """For who asks for the class it stands in for."""
        return cast("NeuronClient", self)

    async def discovery(self, url: str) -> wire.Discovery:
        return await self._ask(url, lambda neuron: _now(neuron.discovery()))

    async def model(self, url: str, model_id: str) -> wire.ModelRow:
        row = await self._ask(url, lambda neuron: _now(neuron.row(model_id)))
        self._witness.heard(self._gateway, self._network.neurons[url], row)
        return row

    async def endpoint(self, url: str, _model_id: str) -> str:
        return await self._ask(url, lambda _: _now(url))

    async def load(self, url: str, request: wire.LoadRequest) -> wire.StatusAnswer:
        async def load(neuron: SimNeuron) -> wire.StatusAnswer:
            self._witness.load_asked(self._gateway, neuron, request.model_id)
            resident = neuron.load(request)
            self._witness.load_begun(self._gateway, neuron, resident)
            return wire.StatusAnswer(model_id=resident.model.id, status=resident.status)

        return await self._ask(url, load, _COMMAND_TIMEOUT_S)

    async def unload(
        self,
        url: str,
        model_id: str,
        if_idle: bool = False,
        level: wire.UnloadLevel | None = None,
        newcomer: str | None = None,
    ) -> wire.StatusAnswer:
        async def unload(neuron: SimNeuron) -> wire.StatusAnswer:
            if level is not None:
                self._witness.put_to_sleep(self._gateway, neuron, model_id)
            resident = await neuron.unload(model_id, if_idle, level, newcomer)
            return wire.StatusAnswer(model_id=model_id, status=resident.status)

        return await self._ask(url, unload, _COMMAND_TIMEOUT_S)

    async def _ask(
        self, url: str, work: Callable[[SimNeuron], Awaitable[_Answer]], timeout_s: float = POLL_TIMEOUT_S
    ) -> _Answer:
        try:
            async with asyncio.timeout(timeout_s):
                neuron = await self._network.reach(url)
                try:
                    answer = await work(neuron)
                finally:
                    await self._network.cross(neuron)
                if neuron.life is not Life.UP:
                    await self._network.reach(url)
                return answer
        except CortexError as no:
            raise NeuronRefused(no.message, no.code, no.retry_after_s) from no
        except (TimeoutError, ConnectionRefusedError) as failure:
            raise NeuronUnreachable(f"{url}: {failure or 'no answer in time'}") from failure
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise NeuronUnreachable(f"{url}: the connection was lost") from None  # what it waited for died


class SimUpstream:
    """Inference at every neuron, as one gateway asks for it. In place of Upstream."""

    def __init__(self, gateway: str, network: Network) -> None:
        self._gateway, self._network, self._witness = gateway, network, network.witness

    def as_upstream(self) -> Upstream:
        """For who asks for the class it stands in for."""
        return cast("Upstream", self)

    async def post(
        self, base: str, _path: str, body: bytes, headers: Mapping[str, str], connect_s: float, idle_s: float | None
    ) -> Response:
        """The answer, as soon as its head is there. Raises UpstreamFailure, like the real one."""
        asked = msgspec.json.decode(body)
        neuron = self._network.neurons.get(base)
        self._witness.forwarded(self._gateway, neuron, base, asked["model"])
        if neuron is not None and neuron.life is Life.CUT_OFF:
            await asyncio.sleep(connect_s)
            raise CannotConnect(f"no connection to {base} in {connect_s:g} s")
        if neuron is None or neuron.life is Life.DEAD:
            raise CannotConnect(f"{base} refuses connections")
        await self._network.cross(neuron)
        answer = SimAnswer(neuron, idle_s)
        answer.task = asyncio.create_task(serve(neuron, self._gateway, asked, answer))
        neuron.inside.add(answer.task)
        answer.task.add_done_callback(answer.task_over)
        await answer.response.head()
        return answer.response


async def _now(answer: _Answer) -> _Answer:
    return answer
