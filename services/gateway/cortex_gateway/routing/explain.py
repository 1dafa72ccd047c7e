"""Why a request for a model would go where it would go: the decision itself, and how each neuron looks to it.

Owns: the words for each neuron. The decision is decide's, the placements are the very options it chooses from: there is
no second opinion. Pure. Called by: api/fleet.py.
"""

from __future__ import annotations

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.fleet import Considered, Explanation
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import NeuronView, Snapshot
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import described
from cortex_gateway.routing.placement import Search, search
from cortex_gateway.routing.replicas import serves, work
from cortex_gateway.routing.rules import Ask, Rules


def explain(snapshot: Snapshot, model: Model, rules: Rules, ask: Ask) -> Explanation:
    """What would be decided now. Asks every neuron, which a decision does not: not for the path of a request."""
    kind, chosen, devices, evict, reason = described(decide(snapshot, model, rules, ask), model.id)
    looking = search(snapshot, model, rules, ask.avoid)
    considered = [_considered(neuron, looking, rules, ask) for _, neuron in sorted(snapshot.neurons.items())]
    return Explanation(
        model=model.id,
        decision=kind,
        neuron=chosen,
        devices=list(devices) if devices is not None else None,
        evict=list(evict),
        reason=reason,
        considered=[
            each.model_copy(update={"verdict": "chosen"}) if each.neuron == chosen else each for each in considered
        ],
    )


def _considered(neuron: NeuronView, looking: Search, rules: Rules, ask: Ask) -> Considered:
    known = neuron.models.get(looking.model.id)
    if (barred := looking.barred(neuron)) is not None:
        return Considered(neuron=neuron.name, verdict="impossible", reason=barred)
    if known is not None and known.status is ModelStatus.LOADED:
        return _loaded(neuron, looking, rules, ask)
    if known is not None and known.status in (ModelStatus.LOADING, ModelStatus.PENDING):
        how_far = f", {known.progress.fraction:.0%} done" if known.progress is not None else ""
        return Considered(neuron=neuron.name, verdict="possible", reason=f"is loading it{how_far}")
    if known is not None and known.status is ModelStatus.RECOVERING:
        return Considered(neuron=neuron.name, verdict="impossible", reason="is recovering it")
    option, sleeps = looking.option(neuron.name), known is not None and known.status is ModelStatus.SLEEPING
    if isinstance(option, str):
        reason = f"has it asleep, but {option}" if sleeps else option
        return Considered(neuron=neuron.name, verdict="impossible", reason=reason)
    load, failed = option.load, known is not None and known.status is ModelStatus.FAILED
    fits = f"fits without {', '.join(load.evict)}" if load.evict else "fits in what is free"
    if sleeps:
        fits = f"has it asleep, and it {fits}" if load.wakes else f"has it asleep, but not where it {fits}"
    return Considered(
        neuron=neuron.name,
        verdict="possible",
        reason=f"{fits}, but has failed to load it" if failed else fits,
        devices=list(load.devices) if load.devices is not None else None,
        evict=list(load.evict),
    )


def _loaded(neuron: NeuronView, looking: Search, rules: Rules, ask: Ask) -> Considered:
    name, model_id = neuron.name, looking.model.id
    if not serves(looking.snapshot, name, model_id, rules, ask):
        wait_s = max(0.0, rules.circuits.retry_at(name, model_id) - ask.now)
        reason = f"has it loaded, but requests to it failed; tried again in {wait_s:.0f} s"
        return Considered(neuron=name, verdict="impossible", reason=reason)
    under_way = work(looking.snapshot, name, model_id, rules)
    requests = f"{under_way} request{'' if under_way == 1 else 's'}"
    return Considered(neuron=name, verdict="possible", reason=f"has it loaded, {requests} under way")
