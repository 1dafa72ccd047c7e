"""One gateway put together, started, reloaded and stopped.

Owns: which part gets which other, and the order of start and stop. Called by: start.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_gateway.admission.gate import Admission
from cortex_gateway.admission.meter import Meter
from cortex_gateway.api import fleet_status, routes, version
from cortex_gateway.config import Config, address, awaiting_a_restart
from cortex_gateway.fleet.beliefs import Beliefs
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.poller import POLL_TIMEOUT_S, Poller
from cortex_gateway.forwarding.attempts import Attempts
from cortex_gateway.forwarding.forwarder import Forwarder
from cortex_gateway.forwarding.upstream import Upstream
from cortex_gateway.loading import Loads
from cortex_gateway.operations import Operations
from cortex_gateway.processes.sockets import Sockets
from cortex_gateway.processes.workers import Worker
from cortex_gateway.records.access_log import AccessLog
from cortex_gateway.records.decisions import Decisions
from cortex_gateway.records.metrics import Metrics
from cortex_gateway.recycler import Recycler
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.state import State
from cortex_serving import logs, tracing
from cortex_serving.server import Lifecycle, Listener
from cortex_serving.server import serve as serve_listeners

_LAY_OUT_INTERVAL_S = 1.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """A process's place in the gateway, which it has from whoever started it: its part of what workers share, its
    sockets, whom it tells that it serves, what brings another into its place on SIGUSR2, and what the gateway was
    started with: a worker that comes later may find newer files."""

    worker: Worker
    sockets: Sockets
    serving: Callable[[], None]
    hand_over: Callable[[], Awaitable[bool]]
    give_up: Callable[[], None]
    started_with: GatewaySettings


async def serve(config: Config, read_again: Callable[[], Config], place: Place) -> None:
    """Serve until SIGTERM, or until another is in our place; `read_again` is called on SIGHUP."""
    async with AsyncExitStack() as resources:
        client = await resources.enter_async_context(NeuronClient(POLL_TIMEOUT_S))
        upstream = await resources.enter_async_context(Upstream())
        settings = place.started_with
        worker = place.worker
        tracer = tracing.start(settings.otlp_endpoint, "cortex-gateway", f"{socket.gethostname()}/{worker.number}")
        if tracer is not None:
            resources.push_async_callback(tracer.stop)
        gateway = _assembled(config, client, upstream, read_again, worker)
        gateway.state.tracer, gateway.state.started_with = tracer, settings

        async def stop() -> None:
            place.give_up()
            await gateway.stop()

        lifecycle = Lifecycle(
            start=gateway.start, stop=stop, others_ready=gateway.others_ready, reload=gateway.reload,
            serving=place.serving, hand_over=place.hand_over, retire=gateway.retire,
        )  # fmt: skip
        if settings.workers > 1:
            _tell_siblings(gateway.state)
            await resources.enter_async_context(_laying_out(gateway.state))
        await serve_listeners(_listeners(gateway, settings, place.sockets), lifecycle)


def _listeners(gateway: Gateway, settings: GatewaySettings, sockets: Sockets) -> list[Listener]:
    """An application for each socket; there are several only where a predecessor had more workers than we have."""
    listen, metrics_listen = address(settings.listen), address(settings.metrics_listen)
    listeners = [Listener(routes.api(gateway.state, gateway.operations), *listen, each) for each in sockets.api]
    metrics = gateway.state.metrics
    return listeners + [Listener(routes.metrics_page(metrics), *metrics_listen, each) for each in sockets.metrics]


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that have a life of their own, and what they share."""

    state: State
    poller: Poller
    loads: Loads
    recycler: Recycler
    operations: Operations
    read_again: Callable[[], Config]

    async def start(self) -> None:
        """Begin to watch the fleet; returns when each neuron was asked once."""
        await self._watch(self.state.config)
        self.recycler.start()
        self.state.worker.ready = True

    async def others_ready(self) -> None:
        """Wait until every worker has started."""
        while not self.state.worker.all.all_ready:  # noqa: ASYNC110  other processes
            await asyncio.sleep(_LOOK_S)

    async def retire(self) -> None:
        """Begin nothing by ourselves any more: another gateway does. Requests go on."""
        await self.recycler.stop(self.state.config.settings.gateway.cold_load_timeout_s)

    async def stop(self) -> None:
        """Close admission and let requests end (case L8)."""
        drain_timeout_s = self.state.config.settings.gateway.drain_timeout_s
        await asyncio.gather(self.state.admission.close(drain_timeout_s), self.recycler.stop(drain_timeout_s))
        await self.loads.stop()
        await self.poller.stop()

    async def reload(self) -> None:
        """Take up the files as they are now; where they are wrong, all stays as it is (case L11)."""
        self.state.access_log.reopen(self.state.config.settings.gateway.access_log)
        try:
            config = await asyncio.to_thread(self.read_again)
        except ConfigInvalid as invalid:
            logs.error("reload_refused", problems=invalid.problems)
            return
        state, before = self.state, self.state.config
        for key in awaiting_a_restart(state.started_with, config.settings.gateway):
            value = getattr(config.settings.gateway, key.partition(".")[2])
            logs.warning("needs_restart", key=key, value=value)
        state.config = config
        state.beliefs.set_neurons(config.settings.neurons)
        state.circuits.keep({neuron.name for neuron in config.settings.neurons}, config.catalogue.models)
        state.meter.take(config.keys)
        state.metrics.declare(config.catalogue.models, config.keys.names())
        if config.settings.gateway.access_log != before.settings.gateway.access_log:
            state.access_log.reopen(config.settings.gateway.access_log)
        await self._watch(config)
        _tell_siblings(state)
        logs.info("reloaded", models=len(config.catalogue.models), neurons=len(config.settings.neurons))

    async def _watch(self, config: Config) -> None:
        neurons = [(neuron.name, neuron.url) for neuron in self.state.beliefs.snapshot().neurons.values()]
        await self.poller.watch(neurons, config.settings.gateway.poll_interval_s)


@asynccontextmanager
async def _laying_out(state: State) -> AsyncIterator[None]:
    """While inside, the other workers are told every second what this one runs with, has counted and is about."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(_LAY_OUT_INTERVAL_S)
            _tell_siblings(state)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


def _tell_siblings(state: State) -> None:
    try:
        version.lay_out(state)
        state.metrics.lay_out()
        fleet_status.lay_out(state)
    except OSError as failure:
        logs.error("cannot_tell_siblings", exception=failure)


def _assembled(
    config: Config, client: NeuronClient, upstream: Upstream, read_again: Callable[[], Config], worker: Worker
) -> Gateway:
    admission, outstanding = Admission(worker), Outstanding()
    beliefs = Beliefs(config.settings.neurons, went_down=admission.neuron_down)
    circuits = Circuits()
    metrics = Metrics(beliefs.snapshot, lambda: admission.inside, worker, circuits)
    metrics.declare(config.catalogue.models, config.keys.names())
    meter = Meter(worker.ledger, config.keys, metrics.refused)
    access_log = AccessLog(config.settings.gateway.access_log)
    poller = Poller(beliefs, client, outstanding)
    loads = Loads(beliefs, client, metrics, poller.kick)
    decisions = Decisions()
    attempts = Attempts(beliefs, loads, upstream, client, metrics, decisions, poller.kick)
    forwarder = Forwarder(attempts)
    state = State(
        config, beliefs, admission, outstanding, metrics, forwarder, meter, access_log, decisions, circuits=circuits,
        worker=worker,
    )  # fmt: skip
    operations = Operations(state, loads, client)
    return Gateway(state, poller, loads, Recycler(state, loads), operations, read_again)
