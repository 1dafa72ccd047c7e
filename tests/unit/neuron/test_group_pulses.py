"""Who of a group is late, silent, or waited for."""

from __future__ import annotations

from cortex_neuron.group.pulses import Pulses
from cortex_neuron.protocol.frames import Bye, Pong


def pulses(*entered: int) -> Pulses:
    """Ranks heard at 10 s, which have begun so many collectives."""
    group = Pulses()
    group.begin(range(len(entered)), 0.0)
    for rank, count in enumerate(entered):
        group.heard(rank, 10.0, Pong(rank=rank, world_size=len(entered), device="cpu", entered=count))
    return group


def test_of_ranks_that_wait_for_each_other_the_late_one_has_begun_fewest_collectives() -> None:
    """The others are in the one that it has not come to."""
    assert pulses(8, 8, 7, 8).late(since=9.0) == 2
    assert pulses(8, 8).late(since=9.0) == 0  # all are in it: the leader is as good as any


def test_a_rank_that_answers_no_ping_is_the_late_one_however_far_it_came() -> None:
    """A stopped process has begun what it has begun."""
    group = pulses(7, 7, 9)
    for rank in (0, 1):
        group.heard(rank, 20.0, Bye())
    assert group.late(since=15.0) == 2
    assert group.silent(since=15.0) == 2
    assert group.silent(since=9.0) is None


def test_what_was_not_heard_while_the_daemon_stood_still_is_no_silence() -> None:
    """A machine that was paused blames nobody (case T4)."""
    group = pulses(1, 1)
    group.shift(by_s=100.0, now=111.0)
    assert group.silent(since=109.0) is None


def test_a_rank_that_is_not_of_the_group_is_not_heard() -> None:
    """Frames name their sender, and a sender may be anybody."""
    group = pulses(1)
    group.heard(5, 99.0, Bye())
    assert group.silent(since=11.0) == 0
