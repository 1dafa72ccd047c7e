"""Routing decisions over snapshots made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import DeviceView, ModelView, NeuronView, Reach, Snapshot
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import Decision, Forward, Load, Reject, WaitForLoad
from cortex_gateway.routing.rules import Ask, Rules

LOADED, LOADING, DRAINING = ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.DRAINING


def declared(model_id: str, vram_mb: int = 1000, **fields: Any) -> Model:
    return Model(id=model_id, source="-", vram_mb=vram_mb, **fields)


def neuron(
    name: str,
    *models: ModelView,
    free: tuple[int, ...] = (24000,),
    state: NeuronState = NeuronState.READY,
    reach: Reach = Reach.UP,
    kind: str = "cuda",
    harness: str = "torch",
) -> NeuronView:
    return NeuronView(
        name=name,
        url=f"http://{name}",
        reach=reach,
        state=state,
        device_kind=kind,
        devices=tuple(DeviceView(index, 24000, mb) for index, mb in enumerate(free)),
        harnesses=frozenset({harness}),
        models=MappingProxyType({model.id: model for model in models}),
    )


def on(model_id: str, status: ModelStatus = LOADED, vram_used_mb: int = 1000, **fields: Any) -> ModelView:
    return ModelView(model_id, status, vram_used_mb=vram_used_mb, **{"devices": (0,), **fields})


def decided(
    model: Model,
    *neurons: NeuronView,
    others: tuple[Model, ...] = (),
    outstanding: Mapping[tuple[str, str], int] | None = None,
    strategy: str = "lru",
    avoid: frozenset[str] = frozenset(),
) -> str:
    """The decision in short: "forward aa", "wait aa", "load aa [0] evict x", or the error's code."""
    rules = Rules({each.id: each for each in (model, *others)}, Outstanding(dict(outstanding or {})), strategy)
    return _short(decide(Snapshot(neurons), model, rules, Ask(avoid=avoid)))


def _short(decision: Decision) -> str:
    match decision:
        case Forward():
            return f"forward {decision.neuron.name}"
        case WaitForLoad():
            return f"wait {decision.neuron.name}"
        case Load():
            devices = "" if decision.devices is None else f" {list(decision.devices)}"
            victims = f" evict {' '.join(decision.evict)}" if decision.evict else ""
            return f"load {decision.neuron.name}{devices}{victims}"
        case Reject():
            return decision.error.code


M = declared("m")


def test_loaded_replicas_are_chosen_by_outstanding_work_then_name() -> None:
    """Ours and others' together."""
    assert decided(M, neuron("bb", on("m")), neuron("aa", on("m"))) == "forward aa"
    assert decided(M, neuron("aa", on("m", elsewhere=2)), neuron("bb", on("m"))) == "forward bb"
    ours = {("bb", "m"): 3}
    assert decided(M, neuron("aa", on("m", elsewhere=2)), neuron("bb", on("m")), outstanding=ours) == "forward aa"


@pytest.mark.parametrize("state", [NeuronState.DRAINING, NeuronState.STOPPING])
def test_a_neuron_that_is_leaving_takes_nothing_new(state: NeuronState) -> None:
    """Not even where it is the only one."""
    leaving = neuron("aa", on("m"), state=state)
    assert decided(M, leaving, neuron("bb", on("m", elsewhere=9))) == "forward bb"
    assert decided(M, leaving) == "no_healthy_neuron"


@pytest.mark.parametrize("reach", [Reach.UNKNOWN, Reach.DOWN])
def test_a_neuron_that_does_not_answer_serves_nothing(reach: Reach) -> None:
    """Whatever it said last (L4)."""
    silent = neuron("aa", on("m"), reach=reach)
    assert decided(M, silent) == "no_healthy_neuron"
    assert decided(M, silent, neuron("bb")) == "load bb [0]"


def test_a_load_under_way_is_waited_for() -> None:
    """Rather than started a second time; the one that is furthest."""
    assert decided(M, neuron("aa"), neuron("bb", on("m", LOADING))) == "wait bb"
    assert decided(M, neuron("aa", on("m", ModelStatus.PENDING)), neuron("bb")) == "wait aa"


def test_recovering_is_503_unless_another_has_it() -> None:
    """Never a second placement (T6)."""
    recovering = neuron("aa", on("m", ModelStatus.RECOVERING))
    assert decided(M, recovering, neuron("bb")) == "model_recovering"
    assert decided(M, recovering, neuron("bb", on("m"))) == "forward bb"


def test_a_model_that_is_being_unloaded_is_placed_elsewhere_or_503() -> None:
    """Where it is going it cannot be loaded at once."""
    assert decided(M, neuron("aa", on("m", DRAINING)), neuron("bb")) == "load bb [0]"
    assert decided(M, neuron("aa", on("m", DRAINING))) == "draining"


def test_placement_looks_at_free_memory_per_device() -> None:
    """Not at the sum, and not at the total (L7)."""
    big = declared("big", 20000)
    assert decided(big, neuron("aa", free=(12000, 12000))) == "no_capacity"
    assert decided(big, neuron("aa", free=(12000, 21000))) == "load aa [1]"
    assert decided(M, neuron("aa", free=(5000,)), neuron("bb", free=(9000,))) == "load bb [0]"


def test_a_split_model_needs_its_share_on_each_device() -> None:
    """tensor_parallel and min_device_vram_mb."""
    split = declared("split", 20000, tensor_parallel=2)
    assert decided(split, neuron("aa", free=(12000, 9000)), neuron("bb", free=(11000, 3, 12000))) == "load bb [0, 2]"
    strict = declared("strict", 20000, tensor_parallel=2, min_device_vram_mb=12000)
    assert decided(strict, neuron("bb", free=(11000, 3, 12000))) == "no_capacity"


def test_a_cpu_host_has_one_memory_for_all_ranks() -> None:
    """And chooses no devices."""
    assert decided(declared("split", 2000, tensor_parallel=2), neuron("aa", kind="cpu")) == "load aa"


def test_only_a_neuron_with_the_harness_will_do() -> None:
    assert decided(declared("v", harness="vllm"), neuron("aa"), neuron("bb", harness="vllm")) == "load bb [0]"


def test_memory_that_a_load_will_still_take_is_not_spent_twice() -> None:
    """Free memory lags behind what has been promised."""
    other = declared("other", 20000)
    busy = neuron("aa", on("other", LOADING, vram_used_mb=1000))
    assert decided(declared("big", 10000), busy, others=(other,)) == "no_capacity"
    assert decided(declared("small", 4000), busy, others=(other,)) == "load aa [0]"


def test_pinned_hosts_come_first_and_pinned_models_stay() -> None:
    """A pin is a preference for placing and a bar to evicting."""
    pinned = declared("p", 20000, pinned_on=("bb",))
    assert decided(pinned, neuron("aa"), neuron("bb")) == "load bb [0]"
    full = neuron("bb", on("p", vram_used_mb=20000), free=(0,))
    assert decided(M, full, others=(pinned,)) == "no_capacity"
    elsewhere = neuron("aa", on("p", vram_used_mb=20000), free=(0,))
    assert decided(M, elsewhere, others=(pinned,)) == "load aa [0] evict p"


NOW = 1_700_000_000.0
A, B, C = declared("a", 8000), declared("b", 8000), declared("c", 8000)


def _full(**idle_s: float) -> NeuronView:
    views = [on(name, vram_used_mb=8000, last_used_at=NOW - seconds) for name, seconds in idle_s.items()]
    return neuron("aa", *views, free=(0,))


def test_the_least_recently_used_goes_and_no_more_than_needed() -> None:
    """Fewest victims first, then the longest idle."""
    abc = (A, B, C)
    assert decided(M, _full(a=10, b=500, c=50), others=abc) == "load aa [0] evict b"
    assert decided(declared("big", 16000), _full(a=10, b=500, c=50), others=abc) == "load aa [0] evict b c"
    two = neuron("zz", on("c", vram_used_mb=8000, last_used_at=NOW - 1), free=(8000,))
    assert decided(declared("big", 16000), _full(a=10, b=500), two, others=abc) == "load zz [0] evict c"


def test_a_small_long_idle_model_is_spared_where_it_is_needless() -> None:
    """It was picked first, but the second alone would have done."""
    small = on("a", vram_used_mb=1000, last_used_at=NOW - 900)
    full = neuron("aa", small, on("b", vram_used_mb=8000, last_used_at=NOW - 5), free=(0,))
    assert decided(declared("big", 8000), full, others=(A, B)) == "load aa [0] evict b"


@pytest.mark.parametrize("status", [LOADING, ModelStatus.RECOVERING, DRAINING, ModelStatus.PENDING])
def test_only_what_is_loaded_is_evicted(status: ModelStatus) -> None:
    """L6"""
    assert decided(declared("big", 8000), neuron("aa", on("a", status, 8000), free=(0,)), others=(A,)) == "no_capacity"


def test_what_is_in_use_is_never_evicted() -> None:
    """By us or by others (L6)."""
    assert decided(M, _full(a=10), others=(A,), outstanding={("aa", "a"): 1}) == "no_capacity"
    assert decided(M, neuron("aa", on("a", elsewhere=1), free=(0,)), others=(A,)) == "no_capacity"


def test_priority_is_a_strategy() -> None:
    """Lower never displaces higher, equals displace each other both ways, the lowest goes first (L6)."""
    low, high = declared("low", 8000, priority=1), declared("high", 8000, priority=5)
    both = _full(high=900, low=1)
    assert (
        decided(declared("new", priority=5), both, others=(low, high), strategy="priority") == "load aa [0] evict low"
    )
    assert decided(declared("new", priority=0), both, others=(low, high), strategy="priority") == "no_capacity"
    assert decided(declared("new", priority=0), both, others=(low, high)) == "load aa [0] evict high"
    assert decided(low, _full(a=1), others=(declared("a", 8000, priority=1),), strategy="priority").endswith("evict a")


def test_where_it_has_failed_is_the_last_place_to_try() -> None:
    """But a place, where there is no other."""
    failed = neuron("aa", on("m", ModelStatus.FAILED, 0))
    assert decided(M, failed, neuron("bb", free=(2000,))) == "load bb [0]"
    assert decided(M, failed) == "load aa [0]"


def test_no_capacity_says_why_of_each_neuron() -> None:
    rules = Rules({"big": declared("big", 99000)})
    snapshot = Snapshot.of({"aa": neuron("aa"), "bb": neuron("bb", harness="vllm")})
    decision = decide(snapshot, declared("big", 99000), rules)
    assert isinstance(decision, Reject)
    assert "aa: 24000 MB free on its emptiest device, 99000 MB needed; bb: has no harness torch" in str(decision.error)
