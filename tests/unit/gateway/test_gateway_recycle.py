"""When a neuron's models are loaded anew, over views made by hand."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import ModelView, NeuronView, Reach
from cortex_gateway.routing.recycle import Cycle, recycle
from cortex_gateway.routing.rules import Rules

CATALOGUE = {name: Model(id=name, source="-", vram_mb=1, pinned_on=("one",)) for name in ("a", "b", "c")}
AFTER = 3


def neuron(*models: ModelView, kind: str = "cuda", **fields: Any) -> NeuronView:
    known = {"reach": Reach.UP, "state": NeuronState.READY, **fields}
    views = MappingProxyType({model.id: model for model in models})
    return NeuronView("one", "http://one", device_kind=kind, models=views, **known)


def on(name: str, status: ModelStatus = ModelStatus.LOADED, **fields: Any) -> ModelView:
    return ModelView(name, status, devices=(1,), **fields)


def decided(
    cycle: Cycle, evictions: int, where: NeuronView, after: int = AFTER, ours: tuple[str, str] | None = None
) -> tuple[int, str, str]:
    """In short: when the round began, who is still to come, and whom to load anew now."""
    rules = Rules(CATALOGUE, Outstanding({ours: 1} if ours else {}))
    then, load = recycle(cycle, evictions, where, rules, after)
    assert load is None or len(load.evict) == 1
    return then.begun_at, "".join(sorted(then.to_come)), load.evict[0] if load else ""


NOTHING = (0, "", "")


@pytest.mark.parametrize(
    ("evictions", "after", "expected"),
    [
        (2, AFTER, NOTHING),
        (3, AFTER, (3, "b", "a")),
        (9, AFTER, (9, "b", "a")),
        (3, 0, NOTHING),
        (10**6, 0, NOTHING),
        (0, 0, NOTHING),
    ],
)
def test_a_round_begins_after_so_many_evictions_and_never_at_zero(
    evictions: int, after: int, expected: tuple[int, str, str]
) -> None:
    """With every model loaded there, pinned ones too: they come back to where they were."""
    assert decided(Cycle(), evictions, neuron(on("a"), on("b")), after) == expected


def test_a_round_takes_one_model_at_a_time_and_the_next_counts_from_its_beginning() -> None:
    """Evictions during the round are the next one's."""
    both = neuron(on("a"), on("b"))
    assert decided(Cycle(3, frozenset("b")), 4, both) == (3, "", "b")
    assert decided(Cycle(3), 5, both) == (3, "", "")
    assert decided(Cycle(3), 6, both) == (6, "b", "a")


def test_only_what_is_still_loaded_and_declared_has_its_turn() -> None:
    """A model that left meanwhile is not brought back; one that nobody declares is not the gateway's to touch."""
    left = neuron(on("a", ModelStatus.UNLOADED), on("b"), on("c", ModelStatus.FAILED), on("stranger"))
    assert decided(Cycle(3, frozenset("ab")), 3, left) == (3, "", "b")
    assert decided(Cycle(), 3, left) == (3, "", "b")
    assert decided(Cycle(3, frozenset("a")), 3, left) == (3, "", "")
    assert decided(Cycle(), 3, neuron()) == (3, "", "")
    assert decided(Cycle(3, frozenset({"gone"})), 3, neuron(on("gone"))) == (3, "", "")


@pytest.mark.parametrize("cycle", [Cycle(), Cycle(0, frozenset("ab"))], ids=["due", "under way"])
@pytest.mark.parametrize(
    "busy",
    [
        neuron(on("a", elsewhere=1), on("b")),
        neuron(on("a"), on("b", ModelStatus.LOADING)),
        neuron(on("a"), on("b", ModelStatus.DRAINING)),
        neuron(on("a"), on("b", ModelStatus.RECOVERING)),
        neuron(on("a"), on("b"), state=NeuronState.DRAINING),
        neuron(on("a"), on("b"), state=NeuronState.STOPPING),
        neuron(on("a"), on("b"), reach=Reach.DOWN),
        neuron(on("a"), on("b"), reach=Reach.UNKNOWN),
    ],
)
def test_nothing_is_taken_down_where_anything_goes_on(busy: NeuronView, cycle: Cycle) -> None:
    """In flight, loading, leaving, dying; nor where a model could not come back: drained or not answering."""
    assert decided(cycle, 3, busy) == (0, "".join(sorted(cycle.to_come)), "")


def test_our_own_requests_count_before_the_neuron_tells_of_them() -> None:
    """On any of its models, and only there."""
    idle = neuron(on("a"))
    assert decided(Cycle(), 3, idle, ours=("one", "c")) == NOTHING
    assert decided(Cycle(), 3, idle, ours=("two", "a")) == (3, "", "a")


def test_a_model_that_waits_for_its_files_holds_nobody_up() -> None:
    """It may wait for days (L3)."""
    assert decided(Cycle(), 3, neuron(on("a"), on("b", ModelStatus.PENDING))) == (3, "", "a")


@pytest.mark.parametrize(("kind", "devices"), [("cuda", (1,)), ("cpu", None)])
def test_it_comes_back_to_the_devices_it_was_on(kind: str, devices: tuple[int, ...] | None) -> None:
    _, load = recycle(Cycle(), 3, neuron(on("a"), kind=kind), Rules(CATALOGUE), AFTER)
    assert load is not None
    assert load.devices == devices
