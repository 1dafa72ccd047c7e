"""Random fleets, and the plain way to place a model that the index must agree with.

Owns: what fleets there may be, and `placements`: every way to place a model, by trying all victims on all neurons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from random import Random
from types import MappingProxyType

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import DeviceView, ModelView, NeuronView, Reach
from cortex_gateway.routing.rules import Rules

NEURONS = tuple("abcdef")
MODELS = tuple(f"m{number}" for number in range(8))
_SIZES_MB = (1000, 2000, 4000, 7000)
_MOSTLY_UP = (*[Reach.UP] * 6, Reach.DOWN, Reach.UNKNOWN)
_MOSTLY_READY = (*[NeuronState.READY] * 6, *NeuronState)
_MOSTLY_LOADED = (*[ModelStatus.LOADED] * 6, *ModelStatus)


def fleet(draw: Random) -> dict[str, NeuronView]:
    """Six neurons."""
    return {name: neuron(draw, name) for name in NEURONS}


def neuron(draw: Random, name: str) -> NeuronView:
    """A neuron, mostly well."""
    devices = draw.choice((1, 1, 2, 4))
    known = [view(draw, devices) for _ in range(draw.randrange(6))]
    return NeuronView(
        name=name,
        url=f"http://{name}",
        reach=draw.choice(_MOSTLY_UP),
        state=draw.choice(_MOSTLY_READY),
        device_kind=draw.choice(("cuda", "cuda", "cuda", "cpu")),
        devices=tuple(DeviceView(index, 16000, draw.choice((0, 0, 500, 1500, 5000))) for index in range(devices)),
        harnesses=frozenset(draw.choice((("torch",), ("torch", "vllm"), ("vllm",)))),
        models=MappingProxyType({each.id: each for each in known}),
    )


def view(draw: Random, devices: int) -> ModelView:
    """A model on a neuron of so many devices."""
    on = draw.sample(range(devices), draw.randint(1, devices))
    return ModelView(
        id=draw.choice(MODELS),
        status=draw.choice(_MOSTLY_LOADED),
        elsewhere=draw.choice((0, 0, 0, 1)),
        devices=tuple(sorted(on)),
        vram_used_mb=draw.choice(_SIZES_MB) * len(on),
        last_used_at=draw.choice((None, *map(float, range(1, 20)))),
        pinned=draw.choice((False, False, False, True)),
        loads=draw.randrange(3),
    )


def model(draw: Random, model_id: str) -> Model:
    """An entry of the catalogue."""
    return Model(
        id=model_id,
        source="-",
        vram_mb=draw.choice(_SIZES_MB) * draw.choice((1, 1, 2)),
        harness=draw.choice(("torch", "torch", "vllm")),
        tensor_parallel=draw.choice((1, 1, 2)),
        min_devices=draw.choice((1, 1, 1, 4)),
        min_device_vram_mb=draw.choice((0, 0, 3000)),
        pinned_on=tuple(draw.sample(NEURONS, draw.randrange(2))),
        preload_on=tuple(draw.sample(NEURONS, draw.randrange(2))),
        priority=draw.randrange(3),
    )


def rules(draw: Random) -> Rules:
    """A catalogue with most of MODELS in it, requests under way, and either strategy."""
    catalogue = {name: model(draw, name) for name in MODELS if draw.random() < 0.8}
    ours = {(draw.choice(NEURONS), draw.choice(MODELS)): 1 for _ in range(draw.randrange(5))}
    return Rules(catalogue, Outstanding(ours), draw.choice(("lru", "priority")))


def may_go(where: NeuronView, victim: ModelView, newcomer: Model, known: Rules) -> bool:
    """Whether the rules let this model be evicted for the other."""
    declared = known.catalogue.get(victim.id)
    in_use = victim.elsewhere or known.outstanding.get((where.name, victim.id))
    pinned = victim.pinned or (declared is not None and where.name in declared.pinned_on)
    outranks = known.strategy == "priority" and declared is not None and declared.priority > newcomer.priority
    return victim.status is ModelStatus.LOADED and not in_use and not pinned and not outranks


def free_mb(where: NeuronView, gone: tuple[ModelView, ...], known: Rules) -> list[int]:
    """Free memory of each device once these are gone and what is being loaded has taken its own."""
    free = {device.index: device.vram_free_mb for device in where.devices}
    for each in where.models.values():
        coming = each.status in (ModelStatus.LOADING, ModelStatus.PENDING, ModelStatus.RECOVERING)
        if coming and each.id in known.catalogue:
            to_come = max(0, known.catalogue[each.id].vram_mb - each.vram_used_mb)
            for index in each.devices:
                free[index] -= to_come // len(each.devices)
    for each in gone:
        for index in each.devices:
            free[index] += each.vram_used_mb // len(each.devices)
    return list(free.values())


def placements(
    neurons: Iterable[NeuronView], newcomer: Model, known: Rules
) -> Iterator[tuple[NeuronView, tuple[ModelView, ...]]]:
    """Every neuron and set of victims with which the model fits."""
    for where in neurons:
        here = where.models.get(newcomer.id)
        if not where.takes_work or newcomer.harness not in where.harnesses:
            continue
        if here is not None and here.status is ModelStatus.DRAINING:
            continue
        span = max(newcomer.tensor_parallel, newcomer.min_devices) if where.device_kind == "cuda" else 1
        need = max(-(-newcomer.vram_mb // span), newcomer.min_device_vram_mb)
        going = [each for each in where.models.values() if may_go(where, each, newcomer, known)]
        for gone in chain.from_iterable(combinations(going, count) for count in range(len(going) + 1)):
            if sum(mb >= need for mb in free_mb(where, gone, known)) >= span:
                yield where, gone
