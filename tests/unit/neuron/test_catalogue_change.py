"""What becomes of each model when the catalogue changes: from two catalogues and the states, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Model, Speculative
from cortex_contracts.wire.neuron import ModelStatus
from cortex_neuron.residency.catalogue_change import Drop, Forgo, Preload, Renew, Step, Take, concerns_the_engine, steps

HERE = "rack1"
# Every key of an entry, with a value unlike the default.
OTHER: dict[str, Any] = {
    "id": "other",
    "source": "/other",
    "harness": "vllm",
    "quant": "awq",
    "vram_mb": 2,
    "min_devices": 2,
    "min_device_vram_mb": 2,
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "ray_hosts": 2,
    "engine_args": ("--enforce-eager",),
    "pinned_on": (HERE,),
    "preload_on": (HERE,),
    "priority": 2,
    "aliases": ("nick",),
    "context": 2,
    "sampling": {"top_k": 2.0},
    "capabilities": ("tools",),
    "task": "embed",
    "matryoshka": True,
    "kv_cache_dtype": "fp8",
    "tool_parser": "hermes",
    "speculative": Speculative(method="ngram"),
}
TORCH_TAKES = {"pinned_on", "preload_on", "priority", "aliases", "sampling", "capabilities"}
VLLM_TAKES = {"pinned_on", "preload_on", "priority", "capabilities"}


def model(model_id: str = "m", **entry: Any) -> Model:
    return Model(**{"id": model_id, "source": "/m", "vram_mb": 1, **entry})


def changed(status: ModelStatus, before: Model, after: Model) -> list[Step]:
    return steps(HERE, [before], [after], {"m": status})


@pytest.mark.parametrize(("harness", "taken"), [("torch", TORCH_TAKES), ("vllm", VLLM_TAKES)])
def test_only_what_an_engine_was_not_started_with_leaves_it_alone(harness: str, taken: set[str]) -> None:
    """Key by key; one that the schema gains is the engine's until somebody says otherwise."""
    assert OTHER.keys() == Model.model_fields.keys()
    before = model(harness=harness)
    other = OTHER | {"harness": "torch" if harness == "vllm" else "vllm"}
    changes = {name: before.model_copy(update={name: value}) for name, value in other.items() if name != "id"}
    assert all(after != before for after in changes.values())
    assert {name for name, after in changes.items() if not concerns_the_engine(before, after)} == taken


@pytest.mark.parametrize("status", ModelStatus)
def test_an_entry_that_stays_is_left_alone(status: ModelStatus) -> None:
    """Whatever the model does; also where its place in the file is another."""
    kept, other = model(preload_on=[HERE]), model("n")
    assert steps(HERE, [kept, other], [other, kept], {"m": status, "n": status}) == []


@pytest.mark.parametrize("status", ModelStatus)
def test_a_change_beside_the_engine_touches_none(status: ModelStatus) -> None:
    """The entry is taken, in every state."""
    after = model(aliases=["nick"], priority=3, sampling={"temperature": 0.1})
    assert changed(status, model(), after) == [Take(after)]


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (ModelStatus.UNLOADED, Take),
        (ModelStatus.DRAINING, Take),
        (ModelStatus.LOADED, Renew),
        (ModelStatus.LOADING, Renew),
        (ModelStatus.PENDING, Renew),
        (ModelStatus.RECOVERING, Renew),
    ],
)
def test_a_change_of_the_engine_loads_again_what_was_wanted(status: ModelStatus, step: type[Step]) -> None:
    """What was loaded or on its way is so again; what was not stays so, and the next load takes the new entry."""
    after = model(vram_mb=2)
    assert changed(status, model(), after) == [Take(after) if step is Take else Renew(after, again=True)]


def test_a_failure_is_over_with_the_entry_that_failed() -> None:
    """It is forgotten, and the model tried again where it is to be here."""
    after, preloaded = model(source="/mended"), model(source="/mended", preload_on=[HERE])
    assert changed(ModelStatus.FAILED, model(), after) == [Renew(after, again=False)]
    assert changed(ModelStatus.SLEEPING, model(), after) == [Renew(after, again=False)]
    assert changed(ModelStatus.FAILED, model(preload_on=[HERE]), preloaded) == [Renew(preloaded, again=True)]


def test_a_new_entry_is_known_and_loaded_where_it_is_to_be() -> None:
    """Another host's preload is no affair of this one."""
    ours, theirs = model("ours", preload_on=[HERE, "rack2"]), model("theirs", preload_on=["rack2"])
    assert steps(HERE, [], [ours, theirs], {}) == [Take(ours), Preload("ours"), Take(theirs)]


def test_preload_on_counts_when_it_begins_to_name_this_host_and_when_it_ends() -> None:
    """What is loaded stays so; what only waits to be loaded need not any more. One that was evicted is left alone."""
    not_here, here = model(preload_on=["rack2"]), model(preload_on=["rack2", HERE])
    assert changed(ModelStatus.UNLOADED, not_here, here) == [Take(here), Preload("m")]
    assert changed(ModelStatus.LOADED, here, not_here) == [Take(not_here), Forgo("m")]
    evicted = here.model_copy(update={"priority": 9})
    assert changed(ModelStatus.UNLOADED, here, evicted) == [Take(evicted)]
    mended = here.model_copy(update={"source": "/mended"})  # it may never have been loaded for want of this
    assert changed(ModelStatus.UNLOADED, here, mended) == [Take(mended), Preload("m")]


def test_what_goes_goes_first() -> None:
    """A name or memory that it gives back may be what another entry needs."""
    renamed = model("n", aliases=["m"], preload_on=[HERE])
    assert steps(HERE, [model()], [renamed], {"m": ModelStatus.LOADED}) == [Drop("m"), Take(renamed), Preload("n")]
