"""Which of the neurons that have a model loaded gets a request for it (cases L12, L13).

The one that served the longest beginning of its prompt, then the one with least work outstanding, then by name. Owns:
that choice. Pure. Called by: decide.py, explain.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import Replica, Snapshot
from cortex_gateway.routing.rules import Ask, Rules

# Beyond so many, two that are drawn are compared: nearly as even as comparing all, at the price of two.
_COMPARED = 16
# How many more requests than the least busy a neuron may have and still be sent the conversation it knows. An engine
# decodes 32 at once by default, so a few more slow nobody down, while to read a prompt again costs seconds; but a
# system prompt that all share must not send everybody to one neuron.
_SLACK = 8


def choose(snapshot: Snapshot, model_id: str, rules: Rules, ask: Ask) -> str | None:
    """The neuron's name; None where no replica takes the request."""
    names = snapshot.where(model_id)
    if not names:
        return None
    serving = (name for name in names if serves(snapshot, name, model_id, rules, ask))
    compared = serving if len(names) <= _COMPARED else _drawn(snapshot, names, model_id, rules, ask)
    best = min(((work(snapshot, name, model_id, rules), name) for name in compared), default=None)
    if best is None:
        return None
    knows = _knows(snapshot, model_id, rules, ask) if ask.prompt else None
    if knows is not None and work(snapshot, knows, model_id, rules) <= best[0] + _SLACK:
        return knows
    return best[1]


def serves(snapshot: Snapshot, name: str, model_id: str, rules: Rules, ask: Ask) -> bool:
    """Whether a neuron that knows the model takes a request for it."""
    neuron = snapshot.neurons[name]
    return (
        neuron.models[model_id].status is ModelStatus.LOADED
        and neuron.takes_work
        and name not in ask.avoid
        and rules.circuits.retry_at(name, model_id) <= ask.now
    )


def work(snapshot: Snapshot, name: str, model_id: str, rules: Rules) -> int:
    """Requests under way there, ours and others'."""
    return snapshot.neurons[name].models[model_id].elsewhere + rules.outstanding.get((name, model_id), 0)


def opens_at(replicas: Iterable[Replica], rules: Rules) -> float | None:
    """When the first of the open circuits may be tried; None where none is what keeps the model from being served."""
    return min(
        (
            rules.circuits.retry_at(replica.neuron.name, replica.model.id)
            for replica in replicas
            if replica.model.status is ModelStatus.LOADED and replica.neuron.takes_work
        ),
        default=None,
    )


def _drawn(snapshot: Snapshot, names: Sequence[str], model_id: str, rules: Rules, ask: Ask) -> Iterator[str]:
    """Two that serve: each the first one from a place that is drawn."""
    count = len(names)
    for start in (ask.draw % count, ask.draw // count % count):
        from_there = (names[(start + step) % count] for step in range(count))
        found = next((name for name in from_there if serves(snapshot, name, model_id, rules, ask)), None)
        if found is None:
            return
        yield found


def _knows(snapshot: Snapshot, model_id: str, rules: Rules, ask: Ask) -> str | None:
    """Who has served the longest beginning of the prompt, and has not loaded the model anew since."""
    for beginning in reversed(ask.prompt):
        served = rules.prefixes.served(beginning)
        if served is None:
            continue
        neuron = snapshot.neurons.get(served.neuron)
        view = neuron.models.get(model_id) if neuron is not None else None
        if view is not None and view.loads == served.loads and serves(snapshot, served.neuron, model_id, rules, ask):
            return served.neuron
    return None
