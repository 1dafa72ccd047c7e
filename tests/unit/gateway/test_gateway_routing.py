"""Routing decisions over snapshots made by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hand_made_fleets import M, declared, neuron, on

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import NeuronView, Reach, Snapshot
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import Decision, Forward, Load, Reject, WaitForLoad
from cortex_gateway.routing.rules import Ask, Rules

LOADED, LOADING, DRAINING = ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.DRAINING
SLEEPING = ModelStatus.SLEEPING


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


def test_loaded_replicas_are_chosen_by_outstanding_work_then_name() -> None:
    """Ours and others' together."""
    assert decided(M, neuron("bb", on("m")), neuron("aa", on("m"))) == "forward aa"
    assert decided(M, neuron("aa", on("m", elsewhere=2)), neuron("bb", on("m"))) == "forward bb"
    ours = {("bb", "m"): 3}
    assert decided(M, neuron("aa", on("m", elsewhere=2)), neuron("bb", on("m")), outstanding=ours) == "forward aa"


def test_a_model_of_several_hosts_needs_its_share_of_one() -> None:
    """Each has as many of its devices and as much of its memory."""
    split = {"harness": "vllm", "vram_mb": 80000, "tensor_parallel": 2, "pipeline_parallel": 2}
    host = neuron("aa", harness="vllm", free=(24000, 24000))
    assert decided(declared("m", **split, ray_hosts=2), host) == "load aa [0, 1]"
    assert decided(declared("m", **split), host) == "no_capacity"


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
    snapshot = Snapshot([neuron("aa"), neuron("bb", harness="vllm")])
    decision = decide(snapshot, declared("big", 99000), rules)
    assert isinstance(decision, Reject)
    assert "aa: 24000 MB free on its emptiest device, 99000 MB needed; bb: has no harness torch" in str(decision.error)


def test_no_capacity_in_a_large_fleet_names_a_few_neurons() -> None:
    """The message stays one that somebody reads; `cortex explain` has the rest."""
    message = _error(declared("big", 99000), *(neuron(f"n{number:03}") for number in range(500)))
    assert message.count("MB free") == 6
    assert message.endswith("; and 494 more")


def test_what_eviction_would_give_is_part_of_the_reason() -> None:
    """An operator sees whether unloading by hand would help."""
    full = neuron("aa", on("a", vram_used_mb=8000), on("b", vram_used_mb=8000, elsewhere=1), free=(0,))
    why = "aa: 0 MB free on its emptiest device, 8000 MB with all gone that may go, 9000 MB needed"
    assert _error(declared("big", 9000), full, others=(A, B)).endswith(f"{why} (what stays: 1 in use)")


def test_what_stays_is_part_of_the_reason_and_named_to_nobody() -> None:
    """An operator sees what blocks, pins or priorities or use; a client may not know of other models."""
    others = [declared(name, priority=9 if name == "above" else 0) for name in ("above", "used", "by-hand", "new")]
    others.append(declared("by-inventory", pinned_on=("aa",)))
    full = neuron(
        "aa", on("above"), on("used", elsewhere=2), on("by-hand", pinned=True), on("by-inventory"),
        on("new", ModelStatus.LOADING), on("gone", ModelStatus.UNLOADED, 0), free=(0,),
    )  # fmt: skip
    big = declared("big", 9000)
    rules = Rules({each.id: each for each in (big, *others)}, strategy="priority")
    decision = decide(Snapshot([full]), big, rules)
    assert isinstance(decision, Reject)
    stays = "1 being loaded, 2 pinned, 1 in use, 1 of higher priority"
    assert str(decision.error).endswith(f"needed (what stays: {stays})")


def test_min_devices_spreads_a_model_and_a_host_with_fewer_will_not_do() -> None:
    """Each device then holds its share."""
    wide = declared("wide", 20000, min_devices=4)
    one, four = neuron("aa", free=(24000,)), neuron("bb", free=(5000, 5000, 5000, 5000))
    assert decided(wide, one, four) == "load bb [0, 1, 2, 3]"
    assert "aa: has 1 device, 4 needed" in _error(wide, one)


def test_the_host_that_is_to_preload_a_model_comes_first() -> None:
    """Even where others must go for it."""
    preloaded = declared("p", 8000, preload_on=("bb",))
    full = neuron("bb", on("a", vram_used_mb=8000), free=(0,))
    assert decided(preloaded, neuron("aa"), full, others=(A,)) == "load bb [0] evict a"
    busy = neuron("bb", on("a", vram_used_mb=8000, elsewhere=1), free=(0,))
    assert decided(preloaded, neuron("aa"), busy, others=(A,)) == "load aa [0]"


def test_what_an_operator_has_pinned_stays() -> None:
    """By the neuron's own word, so that every gateway knows."""
    pinned = neuron("aa", on("a", vram_used_mb=8000, pinned=True), free=(0,))
    assert decided(M, pinned, others=(A,)) == "no_capacity"


@pytest.mark.parametrize("strategy", ["lru", "priority"])
def test_two_models_of_one_rank_displace_each_other_for_ever(strategy: str) -> None:
    """Both ways, as often as they are asked for in turn (L6)."""
    for new, old in ((A, B), (B, A)) * 2:
        full = neuron("aa", on(old.id, vram_used_mb=8000, last_used_at=1.0), free=(0,))
        assert decided(new, full, others=(old,), strategy=strategy) == f"load aa [0] evict {old.id}"


def test_a_model_that_goes_out_of_use_may_go_at_once() -> None:
    """Not only after the next poll: else two models that are asked for in turn would fail each other's requests."""
    rules = Rules({"a": A, "b": B}, Outstanding({("aa", "a"): 1}))
    snapshot = Snapshot([neuron("aa", on("a", vram_used_mb=8000), free=(0,))])
    assert _short(decide(snapshot, B, rules)) == "no_capacity"
    rules.outstanding.give_back(("aa", "a"))
    assert _short(decide(snapshot, B, rules)) == "load aa [0] evict a"
    rules.outstanding.take(("aa", "a"))
    assert _short(decide(snapshot, B, rules)) == "no_capacity"


@pytest.mark.parametrize("strategy", ["lru", "priority"])
def test_what_nobody_declares_goes_first(strategy: str) -> None:
    """However lately it was used: nobody can ask for it any more."""
    both = _full(stranger=1, a=900)
    assert decided(declared("new"), both, others=(A,), strategy=strategy) == "load aa [0] evict stranger"


def test_of_sets_equally_small_the_longest_idle_goes() -> None:
    """Two of three that would do in pairs."""
    assert decided(declared("big", 16000), _full(a=10, b=500, c=50), others=(A, B, C)) == "load aa [0] evict b c"


def test_memory_on_another_device_is_not_counted() -> None:
    """Whoever goes from the wrong card makes no room (L7)."""
    apart = neuron("aa", on("a", vram_used_mb=8000), on("b", vram_used_mb=8000, devices=(1,)), free=(0, 9000))
    assert decided(declared("big", 16000), apart, others=(A, B)) == "load aa [1] evict b"
    assert decided(declared("big", 18000), apart, others=(A, B)) == "no_capacity"


def _error(model: Model, *neurons: NeuronView, others: tuple[Model, ...] = ()) -> str:
    rules = Rules({each.id: each for each in (model, *others)})
    decision = decide(Snapshot(neurons), model, rules)
    assert isinstance(decision, Reject), decision
    return str(decision.error)


def test_a_model_is_woken_where_it_sleeps_sooner_than_loaded_where_it_is_not() -> None:
    """Other things being equal: as many have to go for it. Where more would have to, it is loaded elsewhere."""
    asleep = on("m", SLEEPING, 0, devices=(0,))
    assert decided(M, neuron("aa", free=(20000,)), neuron("bb", asleep, free=(2000,))) == "load bb [0]"
    full = neuron("bb", asleep, on("x", last_used_at=9.0), free=(0,))
    assert decided(M, neuron("aa", free=(20000,)), full, others=(declared("x"),)) == "load aa [0]"
    younger, older = full, neuron("aa", on("x", last_used_at=1.0), free=(0,))
    assert decided(M, older, younger, others=(declared("x"),)) == "load bb [0] evict x"
    assert decided(M, neuron("aa"), neuron("bb", asleep), avoid=frozenset({"bb"})) == "load aa [0]"


def test_the_inventory_s_wish_comes_before_a_sleep_elsewhere() -> None:
    """preload_on and pinned_on say where a model belongs; among those hosts the one where it sleeps is first."""
    asleep = on("m", SLEEPING, 0)
    at_aa = declared("m", preload_on=["aa"])
    assert decided(at_aa, neuron("aa"), neuron("bb", asleep)) == "load aa [0]"
    at_both = declared("m", preload_on=["aa", "bb"])
    assert decided(at_both, neuron("aa"), neuron("bb", asleep, free=(9000,))) == "load bb [0]"


def test_a_model_wakes_on_the_devices_where_it_fell_asleep() -> None:
    """Its weights go back to where they were; where that costs a victim more, it is loaded on others of the host."""
    asleep = on("m", SLEEPING, 0, devices=(0,))
    assert decided(M, neuron("aa", asleep, free=(2000, 20000))) == "load aa [0]"
    in_the_way = on("x", devices=(0,), last_used_at=1.0)
    assert decided(M, neuron("aa", asleep, in_the_way, free=(0, 20000)), others=(declared("x"),)) == "load aa [1]"
    both = (in_the_way, on("y", devices=(1,), last_used_at=0.5))
    crowded = neuron("aa", asleep, *both, free=(0, 0))
    assert decided(M, crowded, others=(declared("x"), declared("y"))) == "load aa [0] evict x"


def test_on_a_cpu_host_what_a_sleeper_holds_is_its_own() -> None:
    """Its weights are in the memory that it needs: only the rest must be free."""
    asleep = on("m", SLEEPING, 0, host_memory_mb=700)
    assert decided(M, neuron("aa", asleep, free=(300,), kind="cpu")) == "load aa"
    assert decided(M, neuron("aa", asleep, free=(299,), kind="cpu")) == "no_capacity"


def test_what_sleeps_is_no_victim() -> None:
    """It has nothing on a device to give."""
    assert decided(M, neuron("aa", on("x", SLEEPING, 0), free=(0,)), others=(declared("x"),)) == "no_capacity"
