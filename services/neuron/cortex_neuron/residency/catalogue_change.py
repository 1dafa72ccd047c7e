"""What becomes of each model when the catalogue changes. Pure. Called by: in_effect.

Owns: which changes of an entry concern the engine that runs it. Does not own: doing any of it (residency, activation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus
from cortex_neuron.residency import states

# What an engine need not be told. All else is an argument of its start; a key that is new is one, too.
_BESIDE_THE_ENGINE = frozenset({"id", "pinned_on", "preload_on", "priority", "aliases", "sampling", "capabilities"})
_VLLM_IS_TOLD = frozenset({"aliases", "sampling"})  # as arguments of its command


@dataclass(frozen=True, slots=True)
class Drop:
    """It has no entry any more: unloaded, then unknown."""

    model_id: str


@dataclass(frozen=True, slots=True)
class Take:
    """This is its entry from now on; an engine that runs it is not touched."""

    model: Model


@dataclass(frozen=True, slots=True)
class Renew:
    """This is its entry from now on, and what runs of it is unloaded; loaded again where `again`."""

    model: Model
    again: bool


@dataclass(frozen=True, slots=True)
class Preload:
    """To be loaded without anybody asking."""

    model_id: str


@dataclass(frozen=True, slots=True)
class Forgo:
    """Not to be loaded by itself any more, where it still waits for that."""

    model_id: str


Step = Drop | Take | Renew | Preload | Forgo


def steps(
    here: str, before: Sequence[Model], after: Sequence[Model], statuses: Mapping[str, ModelStatus]
) -> list[Step]:
    """From one catalogue to the next on the host `here`, whose models are in these states; in the order to take them.

    What goes comes first: it gives names and memory back.
    """
    old, new = ({model.id: model for model in models} for models in (before, after))
    found: list[Step] = [Drop(model_id) for model_id in old if model_id not in new]
    for model in after:
        if model.id not in old:
            found.append(Take(model))
            found += [Preload(model.id)] if here in model.preload_on else []
        elif model != old[model.id]:
            found += _changed(here, old[model.id], model, statuses.get(model.id, ModelStatus.UNLOADED))
    return found


def concerns_the_engine(before: Model, after: Model) -> bool:
    """Whether one that was started by the former must be started again for the latter."""
    beside = _BESIDE_THE_ENGINE - (_VLLM_IS_TOLD if before.harness == "vllm" else frozenset())
    return any(getattr(before, name) != getattr(after, name) for name in Model.model_fields if name not in beside)


def _changed(here: str, before: Model, after: Model, status: ModelStatus) -> Iterator[Step]:
    engine = concerns_the_engine(before, after)
    wanted_here = here in after.preload_on
    # One that is being unloaded is past the old entry: whoever waits to load it again will take the new one.
    if engine and status not in (ModelStatus.UNLOADED, ModelStatus.DRAINING):
        again = states.is_wanted(status) or wanted_here
        yield Renew(after, again)
        return
    yield Take(after)
    if wanted_here and (engine or here not in before.preload_on):
        yield Preload(after.id)
    if here in before.preload_on and not wanted_here:
        yield Forgo(after.id)
