"""What is believed of neurons, from answers and strikes."""

from __future__ import annotations

from typing import Any

from cortex_contracts.inventory.files import NeuronAddress
from cortex_contracts.wire.neuron import Discovery, Health, ModelRow, ModelStatus
from cortex_gateway.fleet.beliefs import STRIKES, Beliefs, Report
from cortex_gateway.fleet.snapshot import ModelView, Reach

ONE = NeuronAddress(name="one", url="http://one/")


def report(in_flight: int = 0, **row: Any) -> Report:
    device = {"index": 0, "name": "card", "vram_total_mb": 100}
    discovery = {"hostname": "h", "os": "o", "kernel": "k", "device_kind": "cuda", "devices": [device]}
    health = {"uptime_secs": 1, "state": "ready", "activation": {}, "version": "1"}
    free = {"devices": [{"index": 0, "vram_used_mb": 40, "vram_free_mb": 60}]}
    models = {"models": [{"id": "m", "status": "loaded", "in_flight": in_flight, "queue_depth": 1}]}
    return Report(
        discovery=Discovery.model_validate({**discovery, "harnesses": ["torch"], "version": "1"}),
        health=Health.model_validate({**health, **free, **models}),
        models=(ModelRow.model_validate({"id": "m", "harness": "torch", "status": "loaded", **row}),),
    )


def test_it_takes_three_strikes_in_a_row_and_one_answer_clears_them() -> None:
    """L4"""
    down: list[str] = []
    beliefs = Beliefs([ONE], went_down=down.append)
    beliefs.answered("one", report(), {})
    for _ in range(2):
        for _ in range(STRIKES - 1):
            beliefs.strike("one")
        assert beliefs.snapshot().neurons["one"].healthy
        beliefs.answered("one", report(), {})
    for _ in range(STRIKES + 2):
        beliefs.strike("one")
    assert beliefs.snapshot().neurons["one"].reach is Reach.DOWN
    assert beliefs.snapshot().replicas_of("m") == ()
    assert down == ["one"]
    beliefs.answered("one", report(), {})
    assert beliefs.snapshot().neurons["one"].healthy


def test_requests_of_others_are_what_is_left_of_all_without_ours() -> None:
    """The neuron counts everybody's; ours are counted here, and newer."""
    beliefs = Beliefs([ONE])
    beliefs.answered("one", report(in_flight=5), {("one", "m"): 4})
    assert beliefs.snapshot().neurons["one"].models["m"].elsewhere == 2


def test_an_intent_holds_until_it_is_withdrawn() -> None:
    """A poll that was under way does not undo what was just commanded; the neuron's own progress shows through."""
    beliefs = Beliefs([ONE])
    beliefs.intend("one", [ModelView("m", ModelStatus.DRAINING), ModelView("new", ModelStatus.LOADING)])
    beliefs.answered("one", report(), {})
    models = beliefs.snapshot().neurons["one"].models
    assert (models["m"].status, models["new"].status) == (ModelStatus.DRAINING, ModelStatus.LOADING)
    beliefs.learn(
        "one", ModelRow.model_validate({"id": "new", "harness": "torch", "status": "loading", "devices": [3]})
    )
    assert beliefs.snapshot().neurons["one"].models["new"].devices == (3,)
    beliefs.withdraw("one", ["m", "new"])
    assert beliefs.snapshot().neurons["one"].models["m"].status is ModelStatus.LOADED


def test_a_neuron_that_moved_is_a_new_one_and_one_that_left_is_forgotten() -> None:
    """The others keep what is known of them."""
    two = NeuronAddress(name="two", url="http://two")
    beliefs = Beliefs([ONE, two])
    for name in ("one", "two"):
        beliefs.answered(name, report(), {})
    beliefs.set_neurons([ONE, NeuronAddress(name="two", url="http://elsewhere")])
    neurons = beliefs.snapshot().neurons
    assert (neurons["one"].reach, neurons["two"].reach) == (Reach.UP, Reach.UNKNOWN)
    beliefs.set_neurons([ONE])
    beliefs.answered("two", report(), {})
    assert beliefs.strike("two") == 0
    assert set(beliefs.snapshot().neurons) == {"one"}


def test_an_answer_that_says_nothing_new_changes_nothing() -> None:
    """Polls of an idle fleet move nothing in any index."""
    beliefs = Beliefs([ONE])
    beliefs.answered("one", report(), {})
    before = beliefs.snapshot().neurons["one"]
    beliefs.answered("one", report(), {})
    assert beliefs.snapshot().neurons["one"] is before


def test_the_snapshot_knows_where_each_model_is() -> None:
    """On neurons that answer, and not where it is unloaded; in order of names, whatever the order of answers."""
    beliefs = Beliefs(NeuronAddress(name=name, url=f"http://{name}") for name in ("two", "one"))
    for name in ("two", "one"):
        beliefs.answered(name, report(), {})
    assert list(beliefs.snapshot().where("m")) == ["one", "two"]
    beliefs.answered("two", report(status="unloaded"), {})
    assert [each.neuron.name for each in beliefs.snapshot().replicas_of("m")] == ["one"]
    for _ in range(STRIKES):
        beliefs.strike("one")
    assert not beliefs.snapshot().where("m")
    assert not beliefs.snapshot().replicas
    assert (beliefs.snapshot().num_answering, beliefs.snapshot().num_taking_work) == (1, 1)


def test_the_same_report_again_undoes_what_was_heard_between() -> None:
    """An idle neuron's answer that is the last one is passed over only while what came of it still stands."""
    beliefs, said = Beliefs([ONE]), _idle()
    beliefs.answered("one", said, {})
    for again in (said, Report(said.discovery, _idle().health, said.models)):
        beliefs.learn("one", said.models[0].model_copy(update={"status": ModelStatus.UNLOADED}))
        assert beliefs.snapshot().neurons["one"].models["m"].status is ModelStatus.UNLOADED
        beliefs.answered("one", again, {})
        assert beliefs.snapshot().neurons["one"].models["m"].status is ModelStatus.LOADED
    beliefs.strike("one")
    beliefs.answered("one", said, {})
    assert beliefs.snapshot().neurons["one"].strikes == 0


def test_the_rows_of_before_may_come_with_requests_under_way() -> None:
    """The same rows are not the same models: somebody else uses one now."""
    beliefs, idle, busy = Beliefs([ONE]), _idle(), report(in_flight=2)
    for said, elsewhere in ((idle, 0), (Report(idle.discovery, busy.health, idle.models), 3), (idle, 0)):
        beliefs.answered("one", said, {})
        assert beliefs.snapshot().neurons["one"].models["m"].elsewhere == elsewhere


def _idle() -> Report:
    said = report()
    still = [each.model_copy(update={"queue_depth": 0}) for each in said.health.models]
    return Report(said.discovery, said.health.model_copy(update={"models": still}), said.models)
