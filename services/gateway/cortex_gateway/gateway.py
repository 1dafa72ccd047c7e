"""One gateway put together, started, reloaded and stopped.

Owns: which part gets which other, and the order of start and stop. Called by: cli.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_gateway.admission import Admission
from cortex_gateway.api import routes
from cortex_gateway.config import Config, address
from cortex_gateway.exchange import Outstanding
from cortex_gateway.fleet.beliefs import Beliefs
from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.fleet.poller import POLL_TIMEOUT_S, Poller
from cortex_gateway.forwarding.attempts import Attempts
from cortex_gateway.forwarding.forwarder import Forwarder
from cortex_gateway.forwarding.upstream import Upstream
from cortex_gateway.loading import Loads
from cortex_gateway.metrics import Metrics
from cortex_gateway.recycler import Recycler
from cortex_gateway.state import State
from cortex_serving import logs
from cortex_serving.server import Lifecycle, Listener
from cortex_serving.server import serve as serve_listeners

_NEED_A_RESTART = ("listen", "metrics_listen", "body_limit_mb")


async def serve(config: Config, read_again: Callable[[], Config]) -> None:
    """Serve until SIGTERM; `read_again` is called on SIGHUP. Raises CannotListen."""
    async with AsyncExitStack() as resources:
        client = await resources.enter_async_context(NeuronClient(POLL_TIMEOUT_S))
        upstream = await resources.enter_async_context(Upstream())
        gateway = _assembled(config, client, upstream, read_again)
        settings = config.settings.gateway
        listeners = [
            Listener(routes.api(gateway.state), *address(settings.listen)),
            Listener(routes.metrics_page(gateway.state.metrics), *address(settings.metrics_listen)),
        ]
        await serve_listeners(listeners, Lifecycle(start=gateway.start, stop=gateway.stop, reload=gateway.reload))


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that have a life of their own, and what they share."""

    state: State
    poller: Poller
    loads: Loads
    recycler: Recycler
    read_again: Callable[[], Config]

    async def start(self) -> None:
        """Begin to watch the fleet; returns when each neuron was asked once."""
        await self._watch(self.state.config)
        self.recycler.start()

    async def stop(self) -> None:
        """Close admission and let requests end (case L8)."""
        drain_timeout_s = self.state.config.settings.gateway.drain_timeout_s
        await asyncio.gather(self.state.admission.close(drain_timeout_s), self.recycler.stop(drain_timeout_s))
        await self.loads.stop()
        await self.poller.stop()

    async def reload(self) -> None:
        """Take up both files as they are now; where they are wrong, all stays as it is (case L11)."""
        try:
            config = await asyncio.to_thread(self.read_again)
        except ConfigInvalid as invalid:
            logs.error("reload_refused", problems=invalid.problems)
            return
        state, before = self.state, self.state.config
        for key in _NEED_A_RESTART:
            if getattr(config.settings.gateway, key) != getattr(before.settings.gateway, key):
                logs.warning("needs_restart", key=f"gateway.{key}", value=getattr(config.settings.gateway, key))
        state.config = config
        state.beliefs.set_neurons(config.settings.neurons)
        state.metrics.forget(
            set(before.catalogue.models) - set(config.catalogue.models),
            {neuron.name for neuron in before.settings.neurons} - {neuron.name for neuron in config.settings.neurons},
        )
        await self._watch(config)
        logs.info("reloaded", models=len(config.catalogue.models), neurons=len(config.settings.neurons))

    async def _watch(self, config: Config) -> None:
        neurons = [(neuron.name, neuron.url) for neuron in self.state.beliefs.snapshot().neurons.values()]
        await self.poller.watch(neurons, config.settings.gateway.poll_interval_s)


def _assembled(config: Config, client: NeuronClient, upstream: Upstream, read_again: Callable[[], Config]) -> Gateway:
    admission, outstanding = Admission(), Outstanding()
    beliefs = Beliefs(config.settings.neurons, went_down=admission.neuron_down)
    metrics = Metrics(beliefs.snapshot, lambda: admission.in_flight)
    poller = Poller(beliefs, client, lambda: outstanding)
    loads = Loads(beliefs, client, metrics, poller.kick)
    attempts = Attempts(beliefs, loads, upstream, client, metrics, poller.kick)
    state = State(config, beliefs, admission, outstanding, metrics, Forwarder(attempts))
    return Gateway(state, poller, loads, Recycler(state, loads), read_again)
