"""What one neuron has free on each device, and which of its models may go for another (cases L6, L7).

Owns: live free memory less what loads under way will still take; that nothing in use, loading or pinned goes; which
devices and which victims a model takes there. Pure. Called by: room.py, placement.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, combinations, islice
from typing import NamedTuple

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import ModelView, NeuronView
from cortex_gateway.routing.rules import Rules

_CUDA = "cuda"
_TAKES_MORE = frozenset({ModelStatus.LOADING, ModelStatus.PENDING, ModelStatus.RECOVERING})
_UNDECLARED = -(2**31)  # its rank: nobody can ask for it any more
_STAYS = ("being loaded", "pinned", "in use", "of higher priority")
_SETS_TRIED = 100  # of victims, of each size: all there are of up to eight models


class Idle(NamedTuple):
    """A model that may go. The order of its fields is the order to go in."""

    rank: int
    last_used_at: float  # 0 is never
    id: str
    devices: tuple[int, ...]
    share_mb: int  # what it gives back on each of them


class Standing(NamedTuple):
    """One neuron. Free memory is by device index; `idle` is in the order to go in."""

    on_gpu: bool
    harnesses: frozenset[str]
    free: tuple[tuple[int, int], ...]
    idle: tuple[Idle, ...]
    kept: tuple[int, int, int] = (0, 0, 0)  # how many go for nobody, and why: _STAYS


class Demand(NamedTuple):
    """What a model needs: so many devices with so much free on each, and up to which rank others go for it."""

    span: int
    need_mb: int
    rank: int


class Fit(NamedTuple):
    """How a model goes onto a neuron: who goes for it, which devices it takes, and what is left on the fullest."""

    gone: tuple[Idle, ...]
    devices: tuple[int, ...]
    left_mb: int


def stand(neuron: NeuronView, rules: Rules) -> Standing:
    """How a neuron stands."""
    name, free = neuron.name, {device.index: device.vram_free_mb for device in neuron.devices}
    idle = []
    coming = pinned = in_use = 0
    for view in neuron.models.values():
        declared = rules.catalogue.get(view.id)
        if view.status is ModelStatus.LOADED:
            if view.pinned or (declared is not None and name in declared.pinned_on):
                pinned += 1
            elif view.elsewhere or (name, view.id) in rules.outstanding:
                in_use += 1
            else:
                idle.append(_idle(view, declared, free, rules))
        elif view.status in _TAKES_MORE and declared is not None:
            coming += 1
            devices = _devices(view, free)
            to_come = max(0, declared.host_mb - view.vram_used_mb)
            for index in devices:
                free[index] -= to_come // len(devices)
    idle.sort()
    kept = coming, pinned, in_use
    return Standing(neuron.device_kind == _CUDA, neuron.harnesses, tuple(free.items()), tuple(idle), kept)


def staying(standing: Standing, up_to_rank: int) -> list[str]:
    """What takes memory there and does not go for a model of this rank: how many, and why. Nobody is named, for this is
    told to clients who may not know of all models."""
    idle = standing.idle  # the highest rank is the last
    above = sum([each.rank > up_to_rank for each in idle]) if idle and idle[-1].rank > up_to_rank else 0
    return [f"{count} {why}" for count, why in zip((*standing.kept, above), _STAYS, strict=True) if count]


def demand(model: Model, on_gpu: bool, rules: Rules) -> Demand:
    """What it needs on such a neuron. On a CPU host ranks are processes that share the one memory."""
    span = model.span if on_gpu else 1
    return Demand(span, max(-(-model.host_mb // span), model.min_device_vram_mb), rank(model, rules))


def rank(model: Model, rules: Rules) -> int:
    """Lower never displaces higher; under `lru` all are equal."""
    return model.priority if rules.strategy == "priority" else 0


def reach(standing: Standing, span: int, up_to_rank: int) -> tuple[int, ...]:
    """MB free on each of the `span` emptiest devices with none, one, two … victims gone; () with fewer devices.

    With none and with all that is exact; in between it is what could be at best, if different victims on different
    devices counted as one.
    """
    if len(standing.free) < span:
        return ()
    shares: dict[int, list[int]] = {}
    going = 0
    for idle in standing.idle:
        if idle.rank <= up_to_rank:
            going += 1
            for index in idle.devices:
                shares.setdefault(index, []).append(idle.share_mb)
    as_they_are = sorted((mb for index, mb in standing.free if index not in shares), reverse=True)[:span]
    columns = []
    for index, free_mb in standing.free:
        if (given := shares.get(index)) is not None:
            given.sort(reverse=True)
            column = list(accumulate(given, initial=free_mb))
            columns.append(column + column[-1:] * (going - len(given)))
    rows = zip(*columns, strict=True) if columns else ((),) * (going + 1)
    return tuple([sorted([*row, *as_they_are], reverse=True)[span - 1] for row in rows])


def fits(standing: Standing, wanted: Demand, gone: tuple[Idle, ...] = ()) -> Fit | None:
    """The emptiest devices that have room once these are gone; None when too few have."""
    free = dict(standing.free)
    for idle in gone:
        for index in idle.devices:
            free[index] += idle.share_mb
    roomy = [(-mb, index) for index, mb in free.items() if mb >= wanted.need_mb]
    if len(roomy) < wanted.span:
        return None
    roomy.sort()
    chosen = roomy[: wanted.span]
    return Fit(gone, tuple(sorted([index for _, index in chosen])), -chosen[-1][0])


def alone(standing: Standing, devices: tuple[int, ...], held_mb: int) -> Standing:
    """The same with these devices alone, where so much is held by who is to have it."""
    free = tuple([(index, mb + held_mb) for index, mb in standing.free if index in devices])
    here = [(each, tuple([index for index in each.devices if index in devices])) for each in standing.idle]
    return standing._replace(free=free, idle=tuple([each._replace(devices=on) for each, on in here if on]))


def make_room(standing: Standing, wanted: Demand, reached: Sequence[int]) -> Fit | None:
    """How it fits with as few victims as will do and, of such sets, the first in the order to go in.

    `reached` is `reach` of the same. None where not even all of them would do.
    """
    fewest = bisect_left(reached, wanted.need_mb)
    if not fewest:
        return fits(standing, wanted)
    going = [idle for idle in standing.idle if idle.rank <= wanted.rank]
    for count in range(fewest, len(reached)):
        for gone in islice(combinations(going, count), _SETS_TRIED):
            if (found := fits(standing, wanted, gone)) is not None:
                return found
        largest = sorted(going, key=lambda idle: -idle.share_mb * len(idle.devices))[:count]
        if (found := fits(standing, wanted, tuple(sorted(largest)))) is not None:
            return found
    return None


def _idle(view: ModelView, declared: Model | None, free: Mapping[int, int], rules: Rules) -> Idle:
    devices = _devices(view, free)
    size_mb = view.vram_used_mb or (declared.vram_mb if declared is not None else 0)
    its_rank = rank(declared, rules) if declared is not None else _UNDECLARED
    return Idle(its_rank, view.last_used_at or 0.0, view.id, devices, size_mb // (len(devices) or 1))


def _devices(view: ModelView, free: Mapping[int, int]) -> tuple[int, ...]:
    """Those it is on; all where that is not known."""
    for index in view.devices:
        if index not in free:
            return tuple(free)
    return view.devices or tuple(free)
