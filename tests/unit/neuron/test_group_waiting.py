"""Who is sent away when a daemon stops: those that wait for a seat, and no other."""

from __future__ import annotations

from typing import cast

import pytest

from cortex_contracts.wire.errors import ShuttingDown
from cortex_neuron.group.group import Group, GroupLimits
from cortex_neuron.group.stream import Stream
from cortex_neuron.protocol import frames
from cortex_neuron.protocol.channel import RankChannel


class _NoRank:
    """A channel whose frames nobody answers."""

    def send(self, rank: int, frame: frames.ToRank) -> None: ...


def _submit(group: Group) -> Stream:
    return group.submit([frames.Submit(id=0, prompt=b"", max_tokens=1, sampling=frames.SamplingParams())])


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
