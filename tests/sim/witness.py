"""What must never happen, judged at the moment when it would: everything that passes between gateways and neurons comes
by here, with what each gateway could know when it decided.

Owns: the invariants of traffic, and the list of violations. Does not own: those of single requests (client.py) or of a
fleet at rest (simulation.py), which tell theirs here too. Called by: network.py, client.py, simulation.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.neuron import Life, Resident, SimNeuron

from cortex_contracts.wire import neuron as wire
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_gateway.fleet.snapshot import ModelView, NeuronView

if TYPE_CHECKING:
    from cortex_gateway.gateway import Gateway

_MOST_KEPT = 50
_NEVER_EVICTED = frozenset({ModelStatus.LOADING, ModelStatus.PENDING, ModelStatus.RECOVERING, ModelStatus.DRAINING})


@dataclass(frozen=True, slots=True)
class Said:
    """What a neuron's report came to, in a gateway's place: models by id."""

    status: dict[str, ModelStatus]
    pinned: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A load that a gateway has asked for."""

    neuron: SimNeuron
    resident: Resident
    work: asyncio.Task[None] | None


class Witness:
    """Sees what passes. `gateways` are those that are watched, by name."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.gateways: dict[str, Gateway] = {}
        self.violations: list[str] = []  # the first
        self.num_violations = 0
        self.checks: Counter[str] = Counter()
        self.evictions = self.loads = self.sleeps = 0
        self._now = now
        self._recycled: set[tuple[str, str, str]] = set()  # by gateway, neuron and model
        self._known: dict[tuple[str, str], Said] = {}  # by gateway and neuron
        self._loading: dict[tuple[str, str], _Begun] = {}  # the last load, by gateway and model

    def check(self, invariant: str, holds: bool, say: Callable[[], str]) -> None:
        """Count a check; keep what it found."""
        self.checks[invariant] += 1
        if not holds:
            self.num_violations += 1
            if len(self.violations) < _MOST_KEPT:
                self.violations.append(f"{invariant}: at {self._now():.3f} s {say()}")

    # ---- what a gateway hears

    def saying(self, neuron: SimNeuron) -> Said:
        """What the neuron says now."""
        residents = neuron.residents.values()
        return Said(
            {each.model.id: each.status for each in residents},
            frozenset(each.model.id for each in residents if each.pinned),
        )

    def reported(self, gateway: str, neuron: SimNeuron, said: Said) -> None:
        """A report has come."""
        self._known[gateway, neuron.host.name] = said

    def heard(self, gateway: str, neuron: SimNeuron, row: wire.ModelRow) -> None:
        """One model's row has come."""
        if (said := self._known.get((gateway, neuron.host.name))) is not None:
            said.status[row.id] = row.status

    # ---- what a gateway does

    def intended(self, gateway: str, name: str, views: list[ModelView]) -> None:
        """A gateway has decided to load a model, and to unload others for it."""
        newcomer = next((view.id for view in views if view.status is ModelStatus.LOADING), None)
        for view in views:
            if view.status is ModelStatus.DRAINING and newcomer is not None:
                self._evicts(gateway, name, view.id, newcomer)
                if view.id == newcomer:
                    self._recycled.add((gateway, name, newcomer))

    def _evicts(self, gateway: str, name: str, victim: str, newcomer: str) -> None:
        self.evictions += 1
        state = self.gateways[gateway].state
        own = state.outstanding.get((name, victim), 0)
        self.check("no eviction of what we use", not own, lambda: f"{gateway}: {victim} on {name}, used by {own}")
        said = self._known.get((gateway, name), Said({}, frozenset()))
        status = said.status.get(victim)
        self.check(
            "no eviction of what is not loaded", status not in _NEVER_EVICTED, lambda: f"{victim} on {name} is {status}"
        )
        if victim == newcomer:
            return  # recycled: it has its place again
        models = state.config.catalogue.models
        declared = models.get(victim)
        pinned = victim in said.pinned or (declared is not None and name in declared.pinned_on)
        self.check("no eviction of what is pinned", not pinned, lambda: f"{gateway}: {victim} on {name}")
        if state.config.settings.eviction.strategy == "priority" and declared is not None and newcomer in models:
            self.check(
                "no lower displaces higher", models[newcomer].priority >= declared.priority,
                lambda: f"{newcomer} ({models[newcomer].priority}) displaces {victim} ({declared.priority}) on {name}",
            )  # fmt: skip

    def unloading(self, neuron: SimNeuron, resident: Resident) -> None:
        """A neuron begins to unload a model, which here gateways alone ask for, to have the room."""
        where = f"{resident.model.id} on {neuron.host.name}"
        users = sorted({seat.gateway for seat in resident.seats})
        self.check("no unload of what is in use", not users, lambda: f"{where}, used by {users}")
        self.check(
            "no unload of what is not loaded",
            resident.status not in _NEVER_EVICTED,
            lambda: f"{where}, {resident.status}",
        )

    def put_to_sleep(self, gateway: str, neuron: SimNeuron, model_id: str) -> None:
        """A gateway wants a model to sleep."""
        self.sleeps += 1
        host = neuron.host
        self.check(
            "no sleep where no memory is set aside for it, nor on a CPU",
            host.sleep_mb > 0 and host.kind == "cuda",
            lambda: f"{gateway}: {model_id} on {host}",
        )

    def demoting(self, neuron: SimNeuron, resident: Resident, newcomer: str | None) -> None:
        """A neuron is about to unload a model that sleeps, for another to sleep, which goes for a newcomer."""
        self.check(
            "no request waits for a sleeper that is unloaded",
            resident.status is not ModelStatus.LOADING and resident.model.id != newcomer,
            lambda: f"{resident.model.id} on {neuron.host.name}, {resident.status}, for {newcomer}",
        )

    def asleep(self, neuron: SimNeuron) -> None:
        """One more model of a neuron sleeps."""
        beds = [each.asleep for each in neuron.residents.values() if each.asleep is not None]
        self.check(
            "no more host memory than is set aside",
            sum(bed.host_mb for bed in beds) <= neuron.host.sleep_mb,
            lambda: f"{neuron.host}: {beds}",
        )

    def load_asked(self, gateway: str, neuron: SimNeuron, model_id: str) -> None:
        """A gateway's load has come to the neuron, while it may be loading the model elsewhere."""
        self.loads += 1
        if (gateway, neuron.host.name, model_id) in self._recycled:
            self._recycled.discard((gateway, neuron.host.name, model_id))
            return  # it was there before
        before = self._loading.get((gateway, model_id))
        twice = before is not None and before.neuron is not neuron and self._goes_on(gateway, before)
        self.check(
            "no double load", not twice,
            lambda: f"{gateway}: {model_id} on {before and before.neuron.host.name} and {neuron.host.name}",
        )  # fmt: skip

    def load_begun(self, gateway: str, neuron: SimNeuron, resident: Resident) -> None:
        """The neuron has taken it."""
        self._loading[gateway, resident.model.id] = _Begun(neuron, resident, resident.work)

    def _goes_on(self, gateway: str, begun: _Begun) -> bool:
        """Whether a load is still under way where the gateway can hear of it."""
        view = self._view(gateway, begun.neuron)
        resident = begun.neuron.residents.get(begun.resident.model.id)
        reached = view is not None and view.healthy and view.state is NeuronState.READY and begun.neuron.life is Life.UP
        same = resident is begun.resident and resident.work is begun.work
        return reached and same and begun.resident.status is ModelStatus.LOADING

    def forwarded(self, gateway: str, neuron: SimNeuron | None, url: str, model_id: str) -> None:
        """A gateway sends a request."""
        view = self._view(gateway, neuron) if neuron is not None else None
        where = f"{gateway}: {model_id} to {url}"
        self.check("no request to an unknown neuron", view is not None, lambda: where)
        if view is not None:
            self.check("no request to one that is down", view.healthy, lambda: f"{where}, {view.reach}")
            works = view.state in (NeuronState.READY, NeuronState.ACTIVATING)
            self.check("no request to one that drains", works, lambda: f"{where}, {view.state}")
            known = view.models.get(model_id)
            loaded = known is not None and known.status is ModelStatus.LOADED
            self.check("no request where it is not loaded", loaded, lambda: f"{where}, {known and known.status}")

    def sent(self, gateway: str, neuron: str, model_id: str, retry_at: float) -> None:
        """A gateway is about to send a request, and its circuit there lets one through from then on."""
        where = f"{gateway}: {model_id} to {neuron}, before {retry_at:.3f} s"
        self.check("no request into an open circuit", retry_at <= self._now(), lambda: where)

    def _view(self, gateway: str, neuron: SimNeuron) -> NeuronView | None:
        return self.gateways[gateway].state.beliefs.snapshot().neurons.get(neuron.host.name)
