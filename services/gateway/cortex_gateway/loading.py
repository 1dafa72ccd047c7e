"""Loading a model on demand, once however many requests wait for it (case L1).

Owns: the one load per model under way, unloading its victims, watching it, and a pause after a failure. Does not own:
which neuron and victims (routing), how long a request waits (forwarding). Called by: forwarding/attempts.py,
operations.py, recycler.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import (
    CortexError,
    ModelBusy,
    ModelFailed,
    ModelLoading,
    QueueFull,
    ShuttingDown,
    Unavailable,
    by_code,
)
from cortex_contracts.wire.neuron import LoadRequest, ModelRow, ModelStatus, UnloadLevel
from cortex_gateway.fleet.beliefs import STRIKES, Beliefs
from cortex_gateway.fleet.client import NeuronClient, NeuronRefused, NeuronUnreachable
from cortex_gateway.fleet.snapshot import ModelView, NeuronView
from cortex_gateway.records.metrics import Metrics
from cortex_gateway.routing.decision import Load, WaitForLoad
from cortex_serving import logs

_WATCH_INTERVAL_S = 0.2
_UNLOAD_TIMEOUT_S = 60.0
_RETRY_S = 5
_GONE = frozenset({ModelStatus.UNLOADED, ModelStatus.SLEEPING})  # from the device, and not on its way back


class Loads:
    """The loads under way, by model id."""

    def __init__(self, beliefs: Beliefs, client: NeuronClient, metrics: Metrics, kick: Callable[[str], None]) -> None:
        self._beliefs, self._client, self._metrics, self._kick = beliefs, client, metrics, kick
        self.evictions: Counter[str] = Counter()  # by neuron, since the gateway started
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()  # requests, by model
        self._failures: dict[tuple[str, str], tuple[float, CortexError]] = {}  # by model and neuron

    async def until_loaded(
        self, model: Model, decision: Load | WaitForLoad, timeout_s: float, queue_limit: int | None = None
    ) -> None:
        """Carry out the decision, or join whoever does. Raises the CortexError that says why it is not loaded.

        Returns too where a victim has come into use meanwhile: decide anew. The load goes on when a waiter is
        cancelled or gives up: the next request finds it. QueueFull where `queue_limit` wait for the model already.
        """
        self._raise_recent_failure(model, decision.neuron)
        if queue_limit is not None and self._waiting[model.id] >= queue_limit:
            raise QueueFull(f"{queue_limit} requests wait for model {model.id!r} to be loaded already")
        self.begin(model, decision, timeout_s)
        self._waiting[model.id] += 1
        task = self._tasks[model.id]
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        finally:
            self._waiting[model.id] -= 1
            if not self._waiting[model.id]:
                del self._waiting[model.id]
        if not task.done():
            raise _still_loading(model, timeout_s)
        if task.cancelled():  # by `stop`
            raise ShuttingDown(f"this gateway is shutting down; {decision.neuron.name} goes on loading {model.id!r}")
        task.result()

    def begin(self, model: Model, decision: Load | WaitForLoad, timeout_s: float) -> None:
        """Begin to carry out the decision, where the model is not being loaded already."""
        if model.id not in self._tasks:
            self._tasks[model.id] = self._task(model, decision, timeout_s)

    def forgive(self, model_id: str, neuron: str) -> None:
        """Let a model that has failed there be tried again at once: somebody has seen to it."""
        self._failures.pop((model_id, neuron), None)

    async def unload(self, neuron: NeuronView, model_id: str, if_idle: bool = False) -> None:
        """Have a model unloaded, and send it no request meanwhile; with `if_idle` only where it serves nobody.

        Raises NeuronRefused, NeuronUnreachable, TimeoutError.
        """
        self._beliefs.intend(neuron.name, [ModelView(model_id, ModelStatus.DRAINING)])
        try:
            await self._unload(neuron, model_id, if_idle)
        finally:
            self._beliefs.withdraw(neuron.name, [model_id])
            self._kick(neuron.name)

    def under_way(self, model_id: str) -> bool:
        """Whether this gateway is loading it, wherever."""
        return model_id in self._tasks

    async def stop(self) -> None:
        """Watch no load any more; the neurons go on with them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _raise_recent_failure(self, model: Model, neuron: NeuronView) -> None:
        """A model that cannot be loaded there is not tried again by every request."""
        until, error = self._failures.get((model.id, neuron.name), (0.0, None))
        if error is not None and asyncio.get_running_loop().time() < until:
            raise type(error)(error.message, retry_after_s=error.retry_after_s)

    def _task(self, model: Model, decision: Load | WaitForLoad, timeout_s: float) -> asyncio.Task[None]:
        """Start at once to believe what the decision will bring: the next one must not spend the same memory."""
        intents: list[ModelView] = []
        if isinstance(decision, Load):
            intents = [ModelView(victim, ModelStatus.DRAINING) for victim in decision.evict]
            intents.append(ModelView(model.id, ModelStatus.LOADING, devices=decision.devices or ()))
            self._beliefs.intend(decision.neuron.name, intents)
        task = asyncio.create_task(self._carry_out(model, decision, timeout_s))

        def ended(task: asyncio.Task[None]) -> None:
            self._beliefs.withdraw(decision.neuron.name, [intent.id for intent in intents])
            self._ended(model, decision.neuron, task)

        task.add_done_callback(ended)
        return task

    def _ended(self, model: Model, neuron: NeuronView, task: asyncio.Task[None]) -> None:
        self._tasks.pop(model.id, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._failures.pop((model.id, neuron.name), None)
        elif isinstance(error, ModelFailed):
            until = asyncio.get_running_loop().time() + (error.retry_after_s or 0)
            self._failures[model.id, neuron.name] = until, error

    async def _carry_out(self, model: Model, decision: Load | WaitForLoad, timeout_s: float) -> None:
        neuron = decision.neuron
        try:
            async with asyncio.timeout(timeout_s):
                if isinstance(decision, Load):
                    await self._load(model, decision)
                else:
                    await self._watch(model, neuron)
        except TimeoutError:
            raise _still_loading(model, timeout_s) from None
        except NeuronRefused as refused:
            self._metrics.loads.labels(model=model.id, result="failed").inc()
            raise _refusal(model, neuron, refused) from refused
        except NeuronUnreachable as failure:
            self._metrics.loads.labels(model=model.id, result="failed").inc()
            self._kick(neuron.name)
            raise Unavailable(f"neuron {neuron.name} was lost while it loaded {model.id!r}: {failure}") from failure

    async def _load(self, model: Model, decision: Load) -> None:
        neuron = decision.neuron
        logs.info("load", model=model.id, neuron=neuron.name, devices=decision.devices, evict=decision.evict)
        for victim in decision.evict:
            if not await self._evict(neuron, victim, model):
                return
        devices = list(decision.devices) if decision.devices is not None else None
        await self._client.load(neuron.url, LoadRequest(model_id=model.id, devices=devices))
        await self._watch(model, neuron)

    async def _evict(self, neuron: NeuronView, victim: str, newcomer: Model) -> bool:
        """Whether it is gone. Another gateway may have come to use it since the last poll: then it stays (case L6)."""
        try:
            sleeps = neuron.puts_to_sleep and victim != newcomer.id
            await self._unload(neuron, victim, if_idle=True, falls_asleep_for=newcomer.id if sleeps else None)
        except NeuronRefused as refused:
            if refused.code != ModelBusy.code:
                raise
            self._beliefs.learn_busy(neuron.name, victim)
            self._kick(neuron.name)
            if victim == newcomer.id:
                raise Unavailable(refused.message, retry_after_s=refused.retry_after_s) from refused
            return False
        if victim != newcomer.id:
            self.evictions[neuron.name] += 1
            self._metrics.evictions.labels(neuron=neuron.name).inc()
        return True

    async def _unload(
        self, neuron: NeuronView, victim: str, if_idle: bool = False, falls_asleep_for: str | None = None
    ) -> None:
        level: UnloadLevel | None = "sleep" if falls_asleep_for else None
        await self._client.unload(neuron.url, victim, if_idle, level, falls_asleep_for)
        ends = _GONE if level else {ModelStatus.UNLOADED}
        async with asyncio.timeout(_UNLOAD_TIMEOUT_S):
            # The neuron is another process: there is nothing to wait on but its answers.
            while (row := await self._client.model(neuron.url, victim)).status not in ends:  # noqa: ASYNC110
                await asyncio.sleep(_WATCH_INTERVAL_S)
        self._beliefs.learn(neuron.name, row)  # or the last poll's word, that it is loaded, would be believed again

    async def _watch(self, model: Model, neuron: NeuronView) -> None:
        """Wait until it is loaded. Every answer is believed at once, so that progress shows."""
        misses = 0
        while True:
            try:
                row = await self._client.model(neuron.url, model.id)
            except NeuronUnreachable:
                misses += 1
                if misses == STRIKES:
                    raise
            else:
                misses = 0
                self._beliefs.learn(neuron.name, row)
                if row.status is ModelStatus.LOADED:
                    self._metrics.loads.labels(model=model.id, result="loaded").inc()
                    self._kick(neuron.name)
                    return
                if row.status is ModelStatus.FAILED or row.status in _GONE:
                    self._metrics.loads.labels(model=model.id, result="failed").inc()
                    self._kick(neuron.name)
                    raise _failure(model, neuron, row)
            await asyncio.sleep(_WATCH_INTERVAL_S)


def _still_loading(model: Model, timeout_s: float) -> CortexError:
    return ModelLoading(f"model {model.id!r} is still loading after {timeout_s:g} s", retry_after_s=_RETRY_S)


def _failure(model: Model, neuron: NeuronView, row: ModelRow) -> CortexError:
    reason = row.failure.message if row.failure is not None else f"it is {row.status}"
    return ModelFailed(
        f"model {model.id!r} could not be loaded on {neuron.name}: {reason}", retry_after_s=row.retry_after_s
    )


def _refusal(model: Model, neuron: NeuronView, refused: NeuronRefused) -> CortexError:
    """The neuron's own 503, such as NoCapacity; whatever else it says, the model has failed there."""
    message = f"neuron {neuron.name} does not load {model.id!r}: {refused.message}"
    kind = by_code(refused.code)
    if kind is None or not issubclass(kind, Unavailable):
        kind = ModelFailed
    return kind(message, retry_after_s=refused.retry_after_s)
