"""What an operator may have done to the fleet: load, unload and pin a model, drain a neuron or this gateway.

Owns: which neurons a command concerns, and when it is refused. Does not own: placement (routing), carrying loads out
(loading.py). What a neuron has done is believed at once. Called by: api/fleet.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from cortex_contracts.wire.errors import (
    ModelBusy,
    ModelLoading,
    ModelNotLoaded,
    Unavailable,
    UnknownNeuron,
    UpstreamBroken,
    by_code,
)
from cortex_contracts.wire.fleet import CommandDone, ModelCommand
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.client import NeuronClient, NeuronRefused, NeuronUnreachable
from cortex_gateway.fleet.snapshot import NeuronView, Replica, Snapshot
from cortex_gateway.loading import Loads
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import Forward, Load, Reject
from cortex_gateway.routing.rules import Ask
from cortex_gateway.state import State
from cortex_serving import logs

_MOST_LOADS = 3
_REMEDY = "wait, or use force"
_Answer = TypeVar("_Answer")
_HELD = frozenset({ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.PENDING, ModelStatus.RECOVERING})
_THERE = _HELD | {ModelStatus.SLEEPING}  # with what has memory of the host alone


class Operations:
    """The commands."""

    def __init__(self, state: State, loads: Loads, client: NeuronClient) -> None:
        self._state, self._loads, self._client = state, loads, client

    async def load(self, command: ModelCommand, request_id: str, wait: bool) -> CommandDone:
        """Have a model loaded, on the named neuron or where routing would put it; what that needs gone is evicted.

        Without `wait` the load goes on after the answer. Raises the CortexError that says why it is not loaded.
        """
        state = self._state
        model = state.config.catalogue.resolve(command.model)
        timeout_s = state.config.settings.gateway.cold_load_timeout_s
        for attempt in range(_MOST_LOADS):
            decision = decide(
                self._snapshot(command.neuron), model, state.rules(), Ask(asyncio.get_running_loop().time())
            )
            state.decisions.record(request_id, model.id, decision)
            if isinstance(decision, Reject):
                raise decision.error
            name = decision.neuron.name
            if isinstance(decision, Forward):
                already = "" if attempt else " already"
                return CommandDone(message=f"{model.id} is loaded on {name}{already}", neurons=[name])
            if isinstance(decision, Load):
                self._refuse_second_load(model.id)
                self._loads.forgive(model.id, name)
            self._loads.begin(model, decision, timeout_s)
            if not wait:
                return CommandDone(message=f"{model.id} is being loaded on {name}", neurons=[name])
            await self._loads.until_loaded(model, decision, timeout_s)
        raise ModelLoading(f"model {model.id!r} was unloaded again, {_MOST_LOADS} times over")

    async def unload(self, command: ModelCommand, force: bool) -> CommandDone:
        """Have a model unloaded, on the named neuron or everywhere. Raises ModelBusy unless `force`."""
        model_id = self._model_id(command.model)
        replicas = self._replicas(model_id, command.neuron, _THERE)
        if not force:
            self._refuse_busy(model_id, replicas)
        names = [replica.neuron.name for replica in replicas]
        logs.info("operator_unload", model=model_id, neurons=names, force=force)
        await _all(_told(each.neuron, self._unload(each, force)) for each in replicas)
        where = f"unloaded from {', '.join(names)}" if names else "loaded nowhere"
        return CommandDone(message=f"{model_id} is {where}", neurons=names)

    async def pin(self, command: ModelCommand, pinned: bool) -> CommandDone:
        """Have a model never evicted, on the named neuron or wherever it is, or take that back."""
        model_id = self._model_id(command.model)
        replicas = self._replicas(model_id, command.neuron, _HELD if pinned else _THERE)
        if pinned and not replicas:
            where = f"on {command.neuron}" if command.neuron else "anywhere"
            raise ModelNotLoaded(f"model {model_id!r} is not {where}: load it, then pin it")
        names = [replica.neuron.name for replica in replicas]
        logs.info("operator_pin", model=model_id, neurons=names, pinned=pinned)
        await _all(_told(each.neuron, self._pin(each.neuron, model_id, pinned)) for each in replicas)
        done = "pinned" if pinned else "not pinned by an operator"
        return CommandDone(message=f"{model_id} is {done} on {', '.join(names) or 'any neuron'}", neurons=names)

    async def drain_neuron(self, name: str, drained: bool) -> CommandDone:
        """Have a neuron take nothing new, or take work again. What runs there goes on."""
        neuron = self._neuron(name)
        ask = self._client.drain if drained else self._client.undrain
        answer = await _told(neuron, ask(neuron.url))
        self._state.beliefs.learn_state(name, answer.state)
        logs.info("operator_drain", neuron=name, state=answer.state)
        return CommandDone(message=f"neuron {name} is {answer.state}", neurons=[name])

    def drain_gateway(self, drained: bool) -> CommandDone:
        """Take no request any more, or take them again. What runs goes on, and so does the operator API."""
        admission = self._state.admission
        (admission.drain if drained else admission.undrain)()
        logs.info("operator_drain_gateway", gate=admission.gate)
        return CommandDone(message=f"the gateway is {admission.gate}, {admission.in_flight} requests are under way")

    async def _unload(self, replica: Replica, force: bool) -> None:
        """What the other gateways have sent there since the last poll only the neuron knows. It takes a recovery for a
        use; that is none here."""
        if_idle = not force and replica.model.status is not ModelStatus.RECOVERING
        try:
            await self._loads.unload(replica.neuron, replica.model.id, if_idle)
        except NeuronRefused as refused:
            if refused.code != ModelBusy.code:
                raise
            raise ModelBusy(f"neuron {replica.neuron.name}: {refused.message}: {_REMEDY}") from refused

    async def _pin(self, neuron: NeuronView, model_id: str, pinned: bool) -> None:
        await self._client.pin(neuron.url, model_id, pinned)
        self._state.beliefs.learn(neuron.name, await self._client.model(neuron.url, model_id))

    def _snapshot(self, neuron: str | None) -> Snapshot:
        """The fleet, or as much of it as the one neuron."""
        return Snapshot.of({neuron: self._neuron(neuron)}) if neuron else self._state.beliefs.snapshot()

    def _neuron(self, name: str) -> NeuronView:
        neurons = self._state.beliefs.snapshot().neurons
        if name not in neurons:
            known = ", ".join(sorted(neurons)) or "none"
            raise UnknownNeuron(f"no neuron {name!r}; there is: {known}", param="neuron")
        return neurons[name]

    def _model_id(self, name: str) -> str:
        """A declared model's id by any of its names; also that of one on a neuron which nobody declares any more."""
        if self._state.beliefs.snapshot().where(name):
            return name
        return self._state.config.catalogue.resolve(name).id

    def _replicas(self, model_id: str, neuron: str | None, statuses: frozenset[ModelStatus]) -> list[Replica]:
        """Where a model is, or comes to be."""
        replicas = self._snapshot(neuron).replicas_of(model_id)
        return sorted(
            (replica for replica in replicas if replica.model.status in statuses), key=lambda each: each.neuron.name
        )

    def _refuse_busy(self, model_id: str, replicas: Iterable[Replica]) -> None:
        ours = self._state.outstanding
        counts = {each.neuron.name: each.model.elsewhere + ours[each.neuron.name, model_id] for each in replicas}
        if uses := [f"{count} on {name}" for name, count in counts.items() if count]:
            raise ModelBusy(f"model {model_id!r} has requests under way ({', '.join(uses)}): {_REMEDY}")
        self._refuse_second_load(model_id, _REMEDY)

    def _refuse_second_load(self, model_id: str, remedy: str = "wait until it is") -> None:
        if self._loads.under_way(model_id):
            raise ModelBusy(f"model {model_id!r} is being loaded: {remedy}")


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Every one of them, whichever fails; then the first failure, if any."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _told(neuron: NeuronView, answer: Awaitable[_Answer]) -> _Answer:
    """The neuron's answer. Raises the CortexError that its no, or its silence, comes to."""
    try:
        return await answer
    except NeuronRefused as refused:
        kind = by_code(refused.code) or UpstreamBroken
        raise kind(f"neuron {neuron.name}: {refused.message}", retry_after_s=refused.retry_after_s) from refused
    except (NeuronUnreachable, TimeoutError) as failure:
        raise Unavailable(f"neuron {neuron.name} does not answer: {failure or 'not in time'}") from failure
