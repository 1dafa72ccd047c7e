"""Where a request for a model goes.

In this order: loaded on a neuron that takes work (replicas.py), loading (wait), all its circuits open or recovering or
being unloaded and nowhere else (503), placeable in free memory, placeable after evictions (placement.py), else 503.
Called by: forwarding/attempts.py, operations.py, explain.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import (
    CortexError,
    Draining,
    ModelRecovering,
    NoCapacity,
    NoHealthyNeuron,
    Unavailable,
)
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import Replica, Snapshot
from cortex_gateway.routing.decision import Decision, Forward, Load, Reject, WaitForLoad
from cortex_gateway.routing.placement import place
from cortex_gateway.routing.replicas import choose, opens_at
from cortex_gateway.routing.rules import Ask, Rules

_ON_THE_WAY = (ModelStatus.LOADING, ModelStatus.PENDING)
_LEAVING_RETRY_S = 1


def decide(snapshot: Snapshot, model: Model, rules: Rules, ask: Ask = Ask()) -> Decision:  # noqa: B008  frozen
    """The decision for one request."""
    if (forward := decide_loaded(snapshot, model, rules, ask)) is not None:
        return forward
    replicas = [each for each in snapshot.replicas_of(model.id) if each.neuron.name not in ask.avoid]
    if (decision := _held_up(replicas, model, rules, ask)) is not None:
        return decision
    placement = place(snapshot, model, rules, ask.avoid)
    if isinstance(placement, Load):
        return placement
    if any(replica.model.status is ModelStatus.DRAINING for replica in replicas):
        return Reject(Draining(f"model {model.id!r} is being unloaded", retry_after_s=_LEAVING_RETRY_S))
    return Reject(_nowhere(snapshot, model, placement))


def decide_loaded(snapshot: Snapshot, model: Model, rules: Rules, ask: Ask) -> Forward | None:
    """The neuron to forward to, if the model is loaded on one that takes work."""
    name = choose(snapshot, model.id, rules, ask)
    return Forward(snapshot.neurons[name]) if name is not None else None


def _held_up(replicas: Iterable[Replica], model: Model, rules: Rules, ask: Ask) -> WaitForLoad | Reject | None:
    """It is somewhere, but not to be had now; another placement would not be better."""
    on_the_way = [each for each in replicas if each.model.status in _ON_THE_WAY and each.neuron.takes_work]
    if on_the_way:
        return WaitForLoad(max(on_the_way, key=_progress).neuron)
    retry_at = opens_at(replicas, rules)
    if retry_at is not None:
        message = f"model {model.id!r} has failed wherever it is loaded; that is tried again soon"
        return Reject(Unavailable(message, retry_after_s=max(1, math.ceil(retry_at - ask.now))))
    for replica in replicas:
        if replica.model.status is ModelStatus.RECOVERING:
            return Reject(_recovering(replica))
    return None


def _progress(replica: Replica) -> float:
    return replica.model.progress.fraction if replica.model.progress is not None else 0.0


def _recovering(replica: Replica) -> CortexError:
    name, neuron = replica.model.id, replica.neuron.name
    reason = f": {replica.model.failure.message}" if replica.model.failure is not None else ""
    return ModelRecovering(
        f"model {name!r} is recovering on {neuron}{reason}", retry_after_s=replica.model.retry_after_s
    )


def _nowhere(snapshot: Snapshot, model: Model, reasons: list[str]) -> CortexError:
    if not snapshot.num_answering:
        return NoHealthyNeuron(f"none of the fleet's {len(snapshot.neurons)} neurons answers")
    if not snapshot.num_taking_work:
        return NoHealthyNeuron("every neuron that answers is draining or stopping")
    return NoCapacity(f"no neuron has room for {model.id!r}: {'; '.join(reasons)}")
