"""When a neuron's loaded models are loaded anew, and which is next: a new group has its memory in one piece again.

Owns: that this comes after so many evictions there, and only while nothing is going on there. Pinned models have
their turn too: nobody loses a place. Called by: recycler.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import NeuronView
from cortex_gateway.routing.decision import Load
from cortex_gateway.routing.placement import devices_to_ask
from cortex_gateway.routing.rules import Rules

# PENDING is not among them: such a model has no process, and its files may not come for days.
_AT_WORK = frozenset({ModelStatus.LOADING, ModelStatus.RECOVERING, ModelStatus.DRAINING})


@dataclass(frozen=True, slots=True)
class Cycle:
    """One neuron's last round: the evictions there had been when it began, and the models that are still to come."""

    begun_at: int = 0
    to_come: frozenset[str] = frozenset()


def recycle(cycle: Cycle, evictions: int, neuron: NeuronView, rules: Rules, after: int) -> tuple[Cycle, Load | None]:
    """What to load anew now, if anything, and the cycle after that. A round begins `after` evictions; 0 is never."""
    under_way = bool(cycle.to_come)
    due = after > 0 and (under_way or evictions - cycle.begun_at >= after)
    if not due or not is_idle(neuron, rules):
        return cycle, None
    loaded = {view.id for view in neuron.models.values() if view.status is ModelStatus.LOADED}
    turns = loaded & rules.catalogue.keys() & (cycle.to_come or loaded)
    begun_at = cycle.begun_at if under_way else evictions
    if not turns:
        return Cycle(begun_at), None
    model_id = min(turns)
    devices = devices_to_ask(neuron, neuron.models[model_id].devices)
    return Cycle(begun_at, frozenset(turns - {model_id})), Load(neuron, devices, evict=(model_id,))


def is_idle(neuron: NeuronView, rules: Rules) -> bool:
    """Nobody waits for an answer or a model there, by its own word and by ours, and it would take a model back."""
    at_work = any(view.elsewhere or view.status in _AT_WORK for view in neuron.models.values())
    return neuron.takes_work and not at_work and not any(name == neuron.name for name, _ in rules.outstanding)
