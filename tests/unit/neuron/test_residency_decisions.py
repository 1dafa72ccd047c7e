"""The pure decisions of residency: transitions, placement, recovery."""

from __future__ import annotations

import pytest

from cortex_contracts.wire.errors import InvalidParameter, ModelNotFound, NoCapacity
from cortex_contracts.wire.neuron import ModelStatus, Progress
from cortex_neuron.residency import placement, recovery, states
from cortex_neuron.residency.phases import Phases
from cortex_neuron.residency.sleep import Bed, demoted
from cortex_neuron.residency.states import TRANSITIONS, IllegalTransition, check_transition, refusal


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    """No state is forgotten, none is a dead end, and each but `unloaded` follows another."""
    assert set(TRANSITIONS) == set(ModelStatus)
    assert set().union(*TRANSITIONS.values()) == set(ModelStatus)
    assert all(TRANSITIONS.values())


def test_an_illegal_transition_is_an_error_that_names_both_states() -> None:
    """A model that was unloaded cannot be `loaded` without having been loading."""
    with pytest.raises(IllegalTransition, match=r"model m: unloaded -> loaded") as raised:
        check_transition("m", ModelStatus.UNLOADED, ModelStatus.LOADED)
    assert (raised.value.before, raised.value.after) == (ModelStatus.UNLOADED, ModelStatus.LOADED)


@pytest.mark.parametrize("status", [status for status in ModelStatus if status is not ModelStatus.LOADED])
def test_a_model_that_does_not_serve_is_503_with_retry_after_and_never_404(status: ModelStatus) -> None:
    """Whatever state it is in, the model exists (case T6)."""
    error = refusal("m", status, None)
    assert not isinstance(error, ModelNotFound)
    assert error.status == 503
    assert error.retry_after_s


def test_a_model_goes_where_most_room_is_left() -> None:
    """Room is what is free now less what loads under way were promised (case L7)."""
    assert placement.choose(4000, {0: 9000, 1: 8000}, {}, None) == (0,)
    assert placement.choose(4000, {0: 9000, 1: 8000}, {0: 4000}, None) == (1,)


def test_no_room_is_said_with_figures() -> None:
    """An operator sees what was needed and what there was."""
    with pytest.raises(NoCapacity, match=r"needs 9000 MB; free are 8000 MB on device 0, 500 MB on device 1"):
        placement.choose(9000, {0: 8000, 1: 4500}, {1: 4000}, None)


def test_a_device_that_is_asked_for_is_kept_to() -> None:
    """`devices` of a load request restricts the choice, and a strange index is the client's mistake."""
    assert placement.choose(1000, {0: 9000, 1: 2000}, {}, [1]) == (1,)
    with pytest.raises(InvalidParameter, match=r"\[7\] are not here"):
        placement.choose(1000, {0: 9000}, {}, [7])


def test_recovery_is_at_once_then_slower_then_given_up() -> None:
    """A group that dies again and again is not started for ever."""
    deaths: list[float] = []
    waits = []
    for now in range(5):
        deaths.append(float(now))
        waits.append(recovery.next_start_s(deaths, float(now)))
    assert waits[0] == 0.0
    assert waits == [*sorted(wait for wait in waits if wait is not None), None]


def test_old_deaths_are_forgotten() -> None:
    """One death a day is no reason to give up."""
    day = 24 * 3600.0
    assert recovery.next_start_s([day * number for number in range(100)], day * 99) == 0.0


def test_an_unreachable_source_is_tried_for_ever() -> None:
    """A host without network at boot has its models once the network is there (case L3)."""
    waits = [recovery.next_fetch_s(attempts) for attempts in range(1, 100)]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


def test_only_loaded_models_and_those_under_way_are_wanted() -> None:
    """What makes a second load request a no-op (case L1)."""
    wanted = {status for status in ModelStatus if states.is_wanted(status)}
    assert wanted == {ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.PENDING, ModelStatus.RECOVERING}


BEDS = [Bed(3.0, "young", 40), Bed(1.0, "oldest", 10), Bed(2.0, "old", 30)]


@pytest.mark.parametrize(
    ("need_mb", "gone"),
    [
        (20, []),
        (21, ["oldest"]),
        (30, ["oldest"]),
        (31, ["oldest", "old"]),
        (100, ["oldest", "old", "young"]),
        (101, None),
        (0, None),
    ],
)
def test_those_longest_asleep_make_room_and_no_more_of_them_than_must(need_mb: int, gone: list[str] | None) -> None:
    """Host memory is a budget; what has no size cannot sleep, and what is larger than all of it never fits."""
    assert demoted(need_mb, 100, BEDS) == gone


@pytest.mark.parametrize(("need_mb", "gone"), [(10, []), (20, ["old"]), (80, ["old", "young"]), (81, None)])
def test_one_that_is_being_woken_goes_for_nobody(need_mb: int, gone: list[str] | None) -> None:
    """Requests wait for it; until it is awake its host memory is taken."""
    beds = [Bed(1.0, "waking", 20, wanted=True), Bed(3.0, "young", 40), Bed(2.0, "old", 30)]
    assert demoted(need_mb, 100, beds) == gone


def test_nothing_sleeps_where_no_memory_is_set_aside_for_it() -> None:
    """The default: eviction ends the processes, as it always has."""
    assert demoted(1, 0, []) is None


def test_each_phase_of_a_load_has_its_time_and_together_they_are_all_of_it() -> None:
    """What is told twice goes on, and what comes before the first word is the start."""
    clock, told = iter([0.0, 1.0, 3.0, 7.0]), list[Progress]()
    phases = Phases(told.append, lambda: next(clock))
    for phase, fraction in [("weights", 0.1), ("weights", 0.5), ("cache", 0.9)]:
        phases.told(Progress(phase=phase, fraction=fraction))
    assert phases.ended() == (7.0, {"start": 1.0, "weights": 2.0, "cache": 4.0})
    assert [progress.fraction for progress in told] == [0.1, 0.5, 0.9]
