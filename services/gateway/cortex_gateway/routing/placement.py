"""Where a model that is loaded nowhere can be put, and what has to go for it (cases L6, L7).

Owns: fit (live free memory per device, the span over devices) and victims (never in use, loading or pinned; fewest,
then least recently used). Pure. Called by: decide.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import ModelView, NeuronView, Snapshot
from cortex_gateway.routing.decision import Load
from cortex_gateway.routing.rules import Rules

_CUDA = "cuda"
_NAMED_IN_ERRORS = 8


@dataclass(frozen=True, slots=True)
class _Option:
    """A way to place the model, and how good it is: smaller ranks are better."""

    load: Load
    rank: tuple[bool, bool, int, float, int, str]


def place(snapshot: Snapshot, model: Model, rules: Rules, avoid: AbstractSet[str]) -> Load | list[str]:
    """The best placement, or each neuron's reason why not."""
    options, reasons = [], []
    for neuron in snapshot.neurons.values():
        option = "it has just failed" if neuron.name in avoid else _option(neuron, model, rules)
        if isinstance(option, _Option):
            options.append(option)
        else:
            reasons.append(f"{neuron.name}: {option}")
    if options:
        return min(options, key=lambda option: option.rank).load
    return reasons[:_NAMED_IN_ERRORS]


def _option(neuron: NeuronView, model: Model, rules: Rules) -> _Option | str:
    if not neuron.takes_work:
        return "not reachable" if not neuron.healthy else f"{neuron.state}"
    if model.harness not in neuron.harnesses:
        return f"has no harness {model.harness}"
    known = neuron.models.get(model.id)
    if known is not None and known.status is ModelStatus.DRAINING:
        return "is unloading it"
    free = _free(neuron, rules.catalogue)
    victims: tuple[ModelView, ...] = ()
    chosen = _fit(neuron, model, free)
    if chosen is None:
        victims = _victims(neuron, model, rules, free)
        if not victims:
            return f"{max(free.values(), default=0)} MB free on its emptiest device, {_need(neuron, model)} MB needed"
        chosen = _fit(neuron, model, _freed(free, victims, rules.catalogue))
        assert chosen is not None
    left = min(free[index] for index in chosen)
    failed_here = known is not None and known.status is ModelStatus.FAILED
    recency = sum(_last_used_at(victim) for victim in victims)
    devices = devices_to_ask(neuron, chosen)
    wanted_here = neuron.name in model.pinned_on or neuron.name in model.preload_on
    rank = (failed_here, not wanted_here, len(victims), recency, -left, neuron.name)
    return _Option(Load(neuron, devices, tuple(victim.id for victim in victims)), rank)


def devices_to_ask(neuron: NeuronView, chosen: tuple[int, ...]) -> tuple[int, ...] | None:
    """What a load names: devices of a GPU host. A CPU host has nothing to choose."""
    return chosen if neuron.device_kind == _CUDA else None


def _span(neuron: NeuronView, model: Model) -> int:
    """Devices it takes. On a CPU host ranks are processes that share the one memory."""
    return max(model.tensor_parallel, model.min_devices) if neuron.device_kind == _CUDA else 1


def _need(neuron: NeuronView, model: Model) -> int:
    """MB that each of its devices must have free."""
    span = _span(neuron, model)
    return max(-(-model.vram_mb // span), model.min_device_vram_mb)


def _fit(neuron: NeuronView, model: Model, free: Mapping[int, int]) -> tuple[int, ...] | None:
    """The emptiest devices that have room, lowest index first; None when too few have."""
    need, span = _need(neuron, model), _span(neuron, model)
    roomy = sorted((index for index, mb in free.items() if mb >= need), key=lambda index: (-free[index], index))
    return tuple(sorted(roomy[:span])) if len(roomy) >= span else None


def _free(neuron: NeuronView, catalogue: Mapping[str, Model]) -> dict[int, int]:
    """Free memory per device, less what models that are being loaded will still take."""
    free = {device.index: device.vram_free_mb for device in neuron.devices}
    for view in neuron.models.values():
        coming = view.status in (ModelStatus.LOADING, ModelStatus.PENDING, ModelStatus.RECOVERING)
        if coming and view.id in catalogue:
            devices = view.devices or tuple(free)
            to_come = max(0, catalogue[view.id].vram_mb - view.vram_used_mb)
            for index in devices:
                free[index] = free.get(index, 0) - to_come // len(devices)
    return free


def _freed(free: Mapping[int, int], victims: Iterable[ModelView], catalogue: Mapping[str, Model]) -> dict[int, int]:
    after = dict(free)
    for victim in victims:
        declared = catalogue[victim.id].vram_mb if victim.id in catalogue else 0
        devices = victim.devices or tuple(free)
        for index in devices:
            after[index] = after.get(index, 0) + (victim.vram_used_mb or declared) // len(devices)
    return after


def _victims(neuron: NeuronView, model: Model, rules: Rules, free: Mapping[int, int]) -> tuple[ModelView, ...]:
    """The models to unload so that it fits: one if one will do, else in order until it does; () if none helps."""
    order = sorted(
        (view for view in neuron.models.values() if _may_go(neuron, view, model, rules)),
        key=lambda view: (_priority(view, rules), _last_used_at(view), view.id),
    )
    for view in order:
        if _fit(neuron, model, _freed(free, [view], rules.catalogue)) is not None:
            return (view,)
    chosen: list[ModelView] = []
    for view in order:
        chosen.append(view)
        if _fit(neuron, model, _freed(free, chosen, rules.catalogue)) is not None:
            return _without_needless(neuron, model, rules, free, chosen)
    return ()


def _without_needless(
    neuron: NeuronView, model: Model, rules: Rules, free: Mapping[int, int], chosen: list[ModelView]
) -> tuple[ModelView, ...]:
    """Spare, most recently used first, whom the later ones have made needless."""
    for view in reversed(chosen[:-1]):
        others = [other for other in chosen if other is not view]
        if _fit(neuron, model, _freed(free, others, rules.catalogue)) is not None:
            chosen = others
    return tuple(chosen)


def _may_go(neuron: NeuronView, view: ModelView, newcomer: Model, rules: Rules) -> bool:
    declared = rules.catalogue.get(view.id)
    if (
        view.status is not ModelStatus.LOADED
        or view.pinned
        or view.elsewhere
        or rules.outstanding.get((neuron.name, view.id))
    ):
        return False
    if declared is None:
        return True
    outranked = rules.strategy == "priority" and declared.priority > newcomer.priority
    return neuron.name not in declared.pinned_on and not outranked


def _priority(view: ModelView, rules: Rules) -> int:
    declared = rules.catalogue.get(view.id)
    return declared.priority if rules.strategy == "priority" and declared is not None else 0


def _last_used_at(view: ModelView) -> float:
    """When it was last used; what was never used comes before everything else."""
    return view.last_used_at or 0.0
