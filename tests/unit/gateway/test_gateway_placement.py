"""Placement over random fleets: what the index finds is what trying everything finds."""

from __future__ import annotations

from random import Random

import pytest
from hand_made_fleets import declared, on
from hand_made_fleets import neuron as neuron_with
from hypothesis import event, given, settings
from hypothesis import strategies as st
from random_fleets import MODELS, NEURONS, fleet, may_go, model, neuron, placements, rules

from cortex_gateway.fleet.snapshot import Snapshot
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import Forward, Load, Reject, WaitForLoad
from cortex_gateway.routing.explain import explain
from cortex_gateway.routing.placement import place
from cortex_gateway.routing.rules import Ask, Rules

# A seed rather than a strategy for each value: drawn one by one, a fleet takes longer to make than to decide over.
DRAWS = st.integers(0, 2**32).map(Random)
many = settings(max_examples=300, deadline=None)


@many
@given(DRAWS)
def test_a_placement_is_found_where_there_is_one_and_takes_the_fewest_victims(draw: Random) -> None:
    """Among the neurons that the inventory prefers, where one of those will do (L6, L7)."""
    views, new, known = fleet(draw), model(draw, "new"), rules(draw)
    possible = list(placements(views.values(), new, known))
    found = place(Snapshot.of(views), new, known, frozenset())
    assert isinstance(found, Load) is bool(possible)
    if isinstance(found, Load):
        wanted = {*new.pinned_on, *new.preload_on}
        preferred = [each for each in possible if each[0].name in wanted] or possible
        assert len(found.evict) == min(len(gone) for _, gone in preferred)
        assert found.neuron.name in {where.name for where, _ in preferred}
        event(f"victims: {len(found.evict)}")


@many
@given(DRAWS)
def test_nothing_in_use_pinned_loading_or_of_higher_rank_ever_goes(draw: Random) -> None:
    """Whatever else is decided (L6)."""
    views, known = fleet(draw), rules(draw)
    new = model(draw, draw.choice((*MODELS, "new")))
    decision = decide(Snapshot.of(views), new, known)
    if isinstance(decision, Load):
        for victim in decision.evict:
            assert may_go(decision.neuron, decision.neuron.models[victim], new, known)
        if decision.devices is not None:
            assert len(decision.devices) == max(new.tensor_parallel, new.min_devices)
            assert set(decision.devices) <= {device.index for device in decision.neuron.devices}


@many
@given(DRAWS)
def test_an_index_that_was_kept_says_what_a_new_one_says(draw: Random) -> None:
    """After answers to polls, and requests that begin and end, in any order."""
    views, new, known = fleet(draw), model(draw, "new"), rules(draw)
    kept = Snapshot.of(views)
    place(kept, new, known, frozenset())
    for _ in range(6):
        seat = (draw.choice(NEURONS), draw.choice(MODELS))
        (known.outstanding.give_back if seat in known.outstanding else known.outstanding.take)(seat)
        if draw.random() < 0.5:
            changed = neuron(draw, draw.choice(NEURONS))
            views[changed.name] = changed
            kept.put(changed)
        fresh, anew = Snapshot.of(views), Rules(known.catalogue, known.outstanding, known.strategy)
        assert place(kept, new, known, frozenset()) == place(fresh, new, anew, frozenset())
        assert kept.replicas == fresh.replicas
        assert (kept.num_answering, kept.num_taking_work) == (fresh.num_answering, fresh.num_taking_work)


@many
@given(DRAWS)
def test_an_explanation_is_the_decision_and_one_word_for_each_neuron(draw: Random) -> None:
    """Nothing is possible where the answer is that there is no room, and what is chosen is as chosen."""
    views, known = fleet(draw), rules(draw)
    wanted, avoid = model(draw, draw.choice((*MODELS, "new"))), frozenset(draw.sample(NEURONS, draw.randrange(3)))
    snapshot, ask = Snapshot.of(views), Ask(avoid=avoid)
    decision, explained = decide(snapshot, wanted, known, ask), explain(snapshot, wanted, known, ask)
    kind = {Forward: "forward", WaitForLoad: "wait", Load: "load", Reject: "reject"}[type(decision)]
    event(kind)
    assert explained.decision == kind
    assert [each.neuron for each in explained.considered] == sorted(views)
    chosen = [each for each in explained.considered if each.verdict == "chosen"]
    if isinstance(decision, Reject):
        assert not chosen
        if decision.error.code == "no_capacity":
            assert {each.verdict for each in explained.considered} == {"impossible"}
    else:
        assert [each.neuron for each in chosen] == [decision.neuron.name] == [explained.neuron]
    if isinstance(decision, Load):
        devices = list(decision.devices) if decision.devices is not None else None
        assert (explained.devices, explained.evict) == (devices, list(decision.evict))
        assert (chosen[0].devices, chosen[0].evict) == (devices, list(decision.evict))


@pytest.mark.parametrize("size", [40, 400])
def test_of_a_large_fleet_the_longest_idle_model_goes(size: int) -> None:
    """However the neurons are called, and though each has one that would do."""
    views = {}
    for number in range(size):
        old = on("old", vram_used_mb=8000, last_used_at=1000.0 + number * 7919 % size)
        views[f"n{number:03}"] = neuron_with(f"n{number:03}", old, free=(0,))
    known = Rules({"old": declared("old", 8000)})
    found = place(Snapshot.of(views), declared("new", 8000), known, frozenset())
    assert isinstance(found, Load)
    assert found.neuron.models["old"].last_used_at == 1000.0
