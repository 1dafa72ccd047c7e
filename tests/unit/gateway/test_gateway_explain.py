"""What an explanation says of each neuron. That it agrees with the decision is in test_gateway_placement.py."""

from __future__ import annotations

from hand_made_fleets import M, declared, neuron, on

from cortex_contracts.wire.neuron import ModelStatus, NeuronState, Progress
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import NeuronView, Reach, Snapshot
from cortex_gateway.routing.circuit import OPENS_AFTER
from cortex_gateway.routing.explain import explain
from cortex_gateway.routing.rules import Ask, Rules


def words(*neurons: NeuronView, rules: Rules | None = None, **ask: float) -> dict[str, str]:
    """By neuron: the verdict and the reason."""
    explained = explain(Snapshot(neurons), M, rules or Rules({"m": M}), Ask(**ask))
    return {each.neuron: f"{each.verdict}: {each.reason}" for each in explained.considered}


def test_every_neuron_has_its_reason_why_not() -> None:
    """In the words of what is wrong there."""
    small = declared("a")
    known = Rules({"m": M, "a": small})
    assert words(
        neuron("down", reach=Reach.DOWN),
        neuron("draining", state=NeuronState.DRAINING),
        neuron("full", free=(10,)),
        neuron("leaving", on("m", ModelStatus.DRAINING)),
        neuron("other", harness="vllm"),
        neuron("pinned", on("a", pinned=True), free=(10,)),
        rules=known,
    ) == {
        "down": "impossible: not reachable",
        "draining": "impossible: draining",
        "full": "impossible: 10 MB free on its emptiest device, 1000 MB needed",
        "leaving": "impossible: is unloading it",
        "other": "impossible: has no harness torch",
        "pinned": "impossible: 10 MB free on its emptiest device, 1000 MB needed (what stays: 1 pinned)",
    }


def test_the_ways_to_place_it_are_told_apart() -> None:
    """As it is, without others, and where it has failed."""
    known = Rules({"m": M, "a": declared("a")})
    assert words(
        neuron("failed", on("m", ModelStatus.FAILED, 0)),
        neuron("full", on("a"), free=(10,)),
        neuron("roomy"),
        rules=known,
    ) == {
        "failed": "possible: fits in what is free, but has failed to load it",
        "full": "possible: fits without a",
        "roomy": "chosen: fits in what is free",
    }


def test_where_it_sleeps_is_said_also_where_it_cannot_wake() -> None:
    """It wakes on the devices that it fell asleep on, or is loaded from its files."""
    asleep = on("m", ModelStatus.SLEEPING, 0, devices=(0,))
    assert words(
        neuron("full", asleep, free=(10,)),
        neuron("elsewhere", asleep, free=(10, 20000)),
        neuron("roomy", asleep, free=(2000,)),
    ) == {
        "full": "impossible: has it asleep, but 10 MB free on its emptiest device, 1000 MB needed",
        "elsewhere": "possible: has it asleep, but not where it fits in what is free",
        "roomy": "chosen: has it asleep, and it fits in what is free",
    }


def test_replicas_say_how_they_are() -> None:
    """Requests under way, a circuit that is open, a load that is half done, a recovery."""
    known = Rules({"m": M}, Outstanding({("busy", "m"): 1}))
    for _ in range(OPENS_AFTER):
        known.circuits.failed(("shut", "m"), 0.0)
    assert words(
        neuron("busy", on("m", elsewhere=2)),
        neuron("idle", on("m")),
        neuron("loading", on("m", ModelStatus.LOADING, progress=Progress(phase="weights", fraction=0.5))),
        neuron("recovering", on("m", ModelStatus.RECOVERING)),
        neuron("shut", on("m")),
        rules=known,
        now=0.1,
    ) == {
        "busy": "possible: has it loaded, 3 requests under way",
        "idle": "chosen: has it loaded, 0 requests under way",
        "loading": "possible: is loading it, 50% done",
        "recovering": "impossible: is recovering it",
        "shut": "impossible: has it loaded, but requests to it failed; tried again in 1 s",
    }
