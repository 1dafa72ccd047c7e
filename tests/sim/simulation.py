"""Gateways and simulated neurons put together in one virtual time, and what holds of them when all is quiet.

Owns: the loop, the network, the real gateways (with the network alone replaced), and the invariants of a fleet at rest.
Does not own: load and faults (traffic.py), or what each part does. Called by: the tests here, __main__.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from tests.sim.client import Question, put
from tests.sim.network import Network, SimClient, SimUpstream, polling
from tests.sim.neuron import Host, Life, SimNeuron
from tests.sim.virtual_time import VirtualLoop
from tests.sim.witness import Witness

from cortex_contracts.inventory.files import Eviction, GatewayFile, KeysFile, NeuronAddress
from cortex_contracts.inventory.fleet import EvictionStrategy, GatewaySettings, Model
from cortex_gateway import gateway as gateways
from cortex_gateway.admission.keys import Keys
from cortex_gateway.api.inference import Inference
from cortex_gateway.catalogue import Catalogue
from cortex_gateway.config import Config
from cortex_gateway.fleet.outstanding import Seat
from cortex_gateway.fleet.snapshot import ModelView, Snapshot
from cortex_gateway.processes.workers import Workers
from cortex_gateway.routing.decision import Load, WaitForLoad

_Result = TypeVar("_Result")
SETTINGS = GatewaySettings(
    cold_load_timeout_s=30.0, poll_interval_s=1.0, drain_timeout_s=5.0, idle_timeout_s=20.0, queue_limit=16
)
NO_KEYS = KeysFile()
_MOST_WAITS = 12  # for a model, in one request: three decisions at first, and as many after each of three surprises
_SERVICE_S = 600.0  # a whole answer of the slowest neuron, and its queue
_TRIES = 40


class SimGateway:
    """A real gateway with the network replaced."""

    def __init__(self, name: str, config: Config, network: Network) -> None:
        self.name, self.config, self._witness = name, config, network.witness
        client, upstream = SimClient(name, network), SimUpstream(name, network)
        self.real = gateways._assembled(
            config, client.as_client(), upstream.as_upstream(), lambda: self.config, Workers().seat(0)
        )
        self.handler = Inference(self.real.state)
        self.outcomes: Counter[str] = Counter()
        network.witness.gateways[name] = self.real
        self._tell_intents()
        self._tell_waits()
        self._tell_sent()

    def _tell_sent(self) -> None:
        circuits = self.real.state.circuits
        sent = circuits.sent

        def told(seat: Seat, now: float) -> None:
            self._witness.sent(self.name, *seat, circuits.retry_at(*seat))
            sent(seat, now)

        circuits.sent = told  # type: ignore[method-assign]

    def _tell_intents(self) -> None:
        beliefs = self.real.state.beliefs
        intend = beliefs.intend

        def told(neuron: str, views: Iterable[ModelView]) -> None:
            listed = list(views)
            self._witness.intended(self.name, neuron, listed)
            intend(neuron, listed)

        beliefs.intend = told  # type: ignore[method-assign]

    def _tell_waits(self) -> None:
        """Count who waits for a model; the recycler, which has no limit, is not among them."""
        loads, waiting = self.real.loads, Counter[str]()
        until_loaded = loads.until_loaded

        async def told(
            model: Model, decision: Load | WaitForLoad, timeout_s: float, queue_limit: int | None = None
        ) -> None:
            waiting[model.id] += queue_limit is not None
            try:
                await until_loaded(model, decision, timeout_s, queue_limit)
            finally:
                waiting[model.id] -= queue_limit is not None
                # Whoever waited, or was sent away at once, is no longer counted: the rest waits.
                most = self.config.settings.gateway.queue_limit
                self._witness.check(
                    "bounded queue",
                    waiting[model.id] <= most,
                    lambda: f"{self.name}: {waiting[model.id]} for {model.id}",
                )

        loads.until_loaded = told  # type: ignore[method-assign]

    async def start(self) -> None:
        polling.set(self.name)
        await self.real.start()

    async def reload(self, config: Config) -> None:
        """Take up another configuration, like on SIGHUP."""
        polling.set(self.name)
        self.config = config
        await self.real.reload()

    async def stop(self) -> None:
        await self.real.stop()

    @property
    def bound_s(self) -> float:
        """In which every request has its answer."""
        return _MOST_WAITS * self.config.settings.gateway.cold_load_timeout_s + _SERVICE_S

    async def ask(self, question: Question) -> str:
        """One request, from its first byte to its last."""
        began = asyncio.get_running_loop().time()
        outcome = await put(question, self.handler, self._witness, lambda: self.real.state.config.catalogue)
        took_s = asyncio.get_running_loop().time() - began
        self._witness.check("answered within its bound", took_s <= self.bound_s, lambda: f"{question}: {took_s:.1f} s")
        self.outcomes[outcome] += 1
        return outcome

    def check_quiet(self) -> None:
        """Nobody asks: every seat has been given back (case L9)."""
        state = self.real.state
        inside, held = len(state.admission.inside), dict(state.outstanding)
        self._witness.check("no seat is left in admission", not inside, lambda: f"{self.name}: {inside}")
        self._witness.check("no seat is left in outstanding", not held, lambda: f"{self.name}: {held}")
        snapshot = state.beliefs.snapshot()
        anew = Snapshot.of(snapshot.neurons)
        same = snapshot.replicas == anew.replicas and snapshot.num_taking_work == anew.num_taking_work
        self._witness.check("a snapshot that is kept up to date is one made anew", same, lambda: self.name)


class Simulation:
    """One fleet. `end` closes it."""

    def __init__(self, hosts: Sequence[Host], models: Sequence[Model], seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.witness = Witness(self.loop.time)
        self.network = Network(self.rng, self.witness)
        self.loop.connect = self.network.connect
        self.models = {model.id: model for model in models}
        self.neurons: dict[str, SimNeuron] = {}
        self.gateways: dict[str, SimGateway] = {}
        self.requests: set[asyncio.Task[str]] = set()
        self._numbers = 0
        self._log = _Log(self.witness)
        self.loop.run(self._begin(hosts))

    async def _begin(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            neuron = SimNeuron(host, self.models, self.rng)
            self.neurons[host.name] = self.network.neurons[host.url] = neuron
            neuron.on_unload = partial(self.witness.unloading, neuron)
            neuron.on_demotion = partial(self.witness.demoting, neuron)
            neuron.on_sleep = partial(self.witness.asleep, neuron)
            neuron.live(Life.DEAD)
            neuron.live(Life.UP)  # with its preloads

    # ---- doing

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run the fleet until `work` is done."""
        return self.loop.run(work)

    def call(self, work: Callable[[], None]) -> None:
        """Do something at once, with the loop at hand."""
        self.run(_call(work))

    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def add_gateway(
        self,
        name: str,
        settings: GatewaySettings = SETTINGS,
        strategy: EvictionStrategy = "lru",
        defrag: int = 0,
        keys: KeysFile = NO_KEYS,
    ) -> SimGateway:
        """One more gateway, which knows the whole fleet once this returns."""
        config = self.config(settings, Eviction(strategy=strategy, defrag_after_cycles=defrag), keys=keys)
        gateway = self.gateways[name] = SimGateway(name, config, self.network)
        self.run(gateway.start())
        return gateway

    def config(
        self,
        settings: GatewaySettings,
        eviction: Eviction,
        without: frozenset[str] = frozenset(),
        keys: KeysFile = NO_KEYS,
    ) -> Config:
        """The inventory's files for a gateway, but for the neurons and models of `without`."""
        addresses = [
            NeuronAddress(name=name, url=each.host.url) for name, each in self.neurons.items() if name not in without
        ]
        catalogue = Catalogue.of(tuple(model for name, model in self.models.items() if name not in without))
        file = GatewayFile(gateway=settings, eviction=eviction, neurons=tuple(addresses))
        return Config(file, catalogue, Keys.of(keys, catalogue))

    def ask(self, gateway: SimGateway, model_id: str, **how: Any) -> asyncio.Task[str]:
        """Begin a request, which goes on while time passes."""
        self._numbers += 1
        question = Question(self._numbers, model_id, **how)
        request = self.loop.create_task(gateway.ask(question))
        self.requests.add(request)
        request.add_done_callback(self._over)
        return request

    def _over(self, request: asyncio.Task[str]) -> None:
        self.requests.discard(request)
        if not request.cancelled() and (failure := request.exception()) is not None:
            self.witness.check("the gateway's code raises nothing", False, lambda: repr(failure))

    # ---- judging

    def settle(self) -> None:
        """End all faults, let every request end, and see that nothing is left of them."""
        for neuron in self.neurons.values():
            neuron.slowness, neuron.lag, neuron.ill = 1.0, 1.0, False
            neuron.failing.clear()
            neuron.drain(False)
            if neuron.life is not Life.UP:
                self.call(partial(neuron.live, Life.UP))
            for resident in neuron.residents.values():
                resident.pinned = False
        if self.requests:
            self.run(_wait(self.requests, max(gateway.bound_s for gateway in self.gateways.values())))
        self.witness.check("no request hangs", not self.requests, lambda: f"{len(self.requests)} still wait")
        self.pass_time(70.0)  # failures are forgiven, circuits close, commands end, models recover
        for gateway in self.gateways.values():
            gateway.check_quiet()
        for neuron in self.neurons.values():
            left = {each.model.id: len(each.seats) for each in neuron.residents.values() if each.seats}
            say = partial("{}: {}".format, neuron.host.name, left)
            self.witness.check("no seat is left at a neuron", not left, say)

    def check_all_served(self, gateway: SimGateway, models: Iterable[str]) -> None:
        """Every one of these models can be served, by a client that comes again as it is told (case L5)."""
        for model_id in models:
            outcome = self.run(self._insist(gateway, model_id))
            self.witness.check("the fleet heals", outcome == "ok", partial("{}: {}".format, model_id, outcome))

    async def _insist(self, gateway: SimGateway, model_id: str) -> str:
        outcome = ""
        for _ in range(_TRIES):
            outcome = await self.ask(gateway, model_id)
            if outcome == "ok":
                break
            await asyncio.sleep(5)
        return outcome

    def end(self) -> None:
        """Close it, gateways first."""
        for gateway in self.gateways.values():
            self.run(gateway.stop())
        self.loop.end()
        self._log.close()


async def _call(work: Callable[[], None]) -> None:
    work()


async def _wait(requests: Iterable[asyncio.Task[str]], seconds: float) -> None:
    await asyncio.wait(list(requests), timeout=seconds)


class _Log(logging.Handler):
    """The services' log while a simulation runs: nothing is written, and what should never be logged is a violation."""

    _NEVER = frozenset({"internal_error", "poll_failed"})

    def __init__(self, witness: Witness) -> None:
        super().__init__(logging.ERROR)
        self._witness, self._logger = witness, logging.getLogger("cortex")
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self)
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage()
        failure = record.exc_info[1] if record.exc_info else None
        self._witness.check(
            "nothing fails that nobody foresaw", event not in self._NEVER, lambda: f"{event}: {failure!r}"
        )

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before
        super().close()
