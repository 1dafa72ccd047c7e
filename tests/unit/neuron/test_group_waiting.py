"""Who is waited for in a load that takes too long, and who is sent away when a daemon stops."""

from __future__ import annotations

from typing import cast

import pytest

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.wire.errors import ShuttingDown
from cortex_neuron.group.death import GroupFailed
from cortex_neuron.group.group import Group, GroupLimits
from cortex_neuron.group.stream import Stream
from cortex_neuron.protocol import frames
from cortex_neuron.protocol.channel import RankChannel

_LOAD = frames.Load(
    model_id="m", source="m", devices=["cpu"] * 3, quant=None, vram_mb=1, context=None, max_sequences=1,
    max_step_tokens=None, cpu_threads=1, text_dir="t", init_timeout_s=1.0, load_timeout_s=1.0,
)  # fmt: skip


class _NoRank:
    """A channel whose frames nobody answers."""

    def send(self, rank: int, frame: frames.ToRank) -> None: ...


def _submit(group: Group, priority: PriorityClass = "normal") -> Stream:
    asked = frames.Submit(id=0, prompt=b"", max_tokens=1, sampling=frames.SamplingParams(), priority=priority)
    return group.submit([asked])


async def test_a_load_that_takes_too_long_is_blamed_on_the_rank_that_the_others_wait_for() -> None:
    """They agree on a cache by a collective, in which whoever has loaded its part waits, be it the leader."""
    group = Group(cast("RankChannel", _NoRank()), GroupLimits(1.0, 1.0, "no.such.module"))
    group._pulses.begin(range(3), group._now())
    for rank, entered in enumerate((2, 2, 1)):
        group._pulses.heard(rank, group._now(), frames.Pong(rank=rank, world_size=3, device="cpu", entered=entered))
    with pytest.raises(GroupFailed, match=r"rank 2 did not finish loading within 0 s") as raised:
        await group.load(_LOAD, 0.0, lambda _: None)
    assert (raised.value.death.kind, raised.value.death.rank) == ("load_timeout", 2)


@pytest.mark.parametrize(("counted", "sent_away"), [(0, 0), (1, 1), (2, 2), (3, 2)])
async def test_the_last_that_came_are_those_that_wait(counted: int, sent_away: int) -> None:
    """The engine's count may include answers that have begun and were put back: they are not sent away (case L8)."""
    group = Group(cast("RankChannel", _NoRank()), GroupLimits(1.0, 1.0, "no.such.module"))
    begun, *waiting = [_submit(group) for _ in range(3)]
    begun.put(frames.Output(begun.ids[0], [1]))
    group.figures.waiting = counted
    assert group.fail_waiting(ShuttingDown("going")) == sent_away
    for stream in waiting[len(waiting) - sent_away :]:
        with pytest.raises(ShuttingDown):
            await stream.next(0.0)
    assert await begun.next(0.0) == [frames.Output(begun.ids[0], [1])]
    assert await begun.next(0.0) == []


async def test_who_is_of_a_lower_class_waits_longest_and_is_sent_away() -> None:
    """The high one came last and has the seat by now: it is the low ones that wait (case L8)."""
    group = Group(cast("RankChannel", _NoRank()), GroupLimits(1.0, 1.0, "no.such.module"))
    low, normal, high = _submit(group, "low"), _submit(group, "normal"), _submit(group, "high")
    group.figures.waiting = 2
    assert group.fail_waiting(ShuttingDown("going")) == 2
    for stream in (low, normal):
        with pytest.raises(ShuttingDown):
            await stream.next(0.0)
    assert await high.next(0.0) == []
