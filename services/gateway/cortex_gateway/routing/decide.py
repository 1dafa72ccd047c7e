"""Where a request for a model goes.

In this order: loaded on a neuron that takes work (least outstanding, then name), loading (wait), recovering or being
unloaded and nowhere else (503), placeable in free memory, placeable after evictions (placement.py), else 503.
Called by: forwarding/attempts.py.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import CortexError, Draining, ModelRecovering, NoCapacity, NoHealthyNeuron
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import Replica, Snapshot
from cortex_gateway.routing.decision import Decision, Forward, Load, Reject, WaitForLoad
from cortex_gateway.routing.placement import Rules, place

_ON_THE_WAY = (ModelStatus.LOADING, ModelStatus.PENDING)
_LEAVING_RETRY_S = 1


def decide(snapshot: Snapshot, model: Model, rules: Rules, avoid: AbstractSet[str] = frozenset()) -> Decision:
    """The decision for one request. `avoid` names neurons that have just failed this very request."""
    if (forward := decide_loaded(snapshot, model, rules, avoid)) is not None:
        return forward
    replicas = [replica for replica in snapshot.replicas_of(model.id) if replica.neuron.name not in avoid]
    for replica in sorted(replicas, key=_progress, reverse=True):
        if replica.model.status in _ON_THE_WAY and replica.neuron.takes_work:
            return WaitForLoad(replica.neuron)
    for replica in replicas:
        if replica.model.status is ModelStatus.RECOVERING:
            return Reject(_recovering(replica))
    placement = place(snapshot, model, rules, avoid)
    if isinstance(placement, Load):
        return placement
    if any(replica.model.status is ModelStatus.DRAINING for replica in replicas):
        return Reject(Draining(f"model {model.id!r} is being unloaded", retry_after_s=_LEAVING_RETRY_S))
    return Reject(_nowhere(snapshot, model, placement))


def decide_loaded(
    snapshot: Snapshot, model: Model, rules: Rules, avoid: AbstractSet[str] = frozenset()
) -> Forward | None:
    """The neuron to forward to, if the model is loaded on one that takes work."""
    best: tuple[int, str] | None = None
    for replica in snapshot.replicas_of(model.id):
        neuron = replica.neuron
        if replica.model.status is not ModelStatus.LOADED or not neuron.takes_work or neuron.name in avoid:
            continue
        rank = (replica.model.elsewhere + rules.outstanding.get((neuron.name, model.id), 0), neuron.name)
        best = rank if best is None else min(best, rank)
    return Forward(snapshot.neurons[best[1]]) if best is not None else None


def _progress(replica: Replica) -> float:
    return replica.model.progress.fraction if replica.model.progress is not None else 0.0


def _recovering(replica: Replica) -> CortexError:
    name, neuron = replica.model.id, replica.neuron.name
    reason = f": {replica.model.failure.message}" if replica.model.failure is not None else ""
    return ModelRecovering(
        f"model {name!r} is recovering on {neuron}{reason}", retry_after_s=replica.model.retry_after_s
    )


def _nowhere(snapshot: Snapshot, model: Model, reasons: list[str]) -> CortexError:
    if not any(neuron.healthy for neuron in snapshot.neurons.values()):
        return NoHealthyNeuron(f"none of the fleet's {len(snapshot.neurons)} neurons answers")
    if not any(neuron.takes_work for neuron in snapshot.neurons.values()):
        return NoHealthyNeuron("every neuron that answers is draining or stopping")
    return NoCapacity(f"no neuron has room for {model.id!r}: {'; '.join(reasons)}")
