"""An index over a snapshot by which placement finds room among a thousand neurons without asking each.

Owns: the neurons in order of the room they have or could make, for each kind of model that has been asked for, kept up
to date as the snapshot changes. Does not own: which of them is taken (placement.py). Called by: placement.py,
fleet/snapshot.py (put).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import Any, NamedTuple

from cortex_contracts.inventory.fleet import Model
from cortex_gateway.fleet.snapshot import NeuronView
from cortex_gateway.routing.rules import Rules
from cortex_gateway.routing.standing import Demand, Standing, demand, reach, stand

_MOST_LANES = 32  # each costs every change a little; what has not been asked for in a while is made anew


class _Kind(NamedTuple):
    """What models have in common whose lane is the same."""

    harness: str
    on_gpu: bool
    span: int
    rank: int


# What a neuron promises: at best so many victims, the first of them of such a rank and last used then (with none: so
# much free, negated), and its name. It is never better than it promises.
Promise = tuple[int, int, float, str]


class Lane:
    """The neurons that could take models of one kind, in three orders."""

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self.reached: dict[str, tuple[int, ...]] = {}  # standing.reach, by neuron
        self._free: list[tuple[int, str]] = []  # the most free first
        self._most: list[tuple[int, str]] = []  # that would have the most free with all gone that may
        self._idle: list[tuple[int, float, str]] = []  # that have what should go first
        self._keys: dict[str, tuple[tuple[int, str], tuple[int, str], tuple[int, float, str]]] = {}

    def put(self, name: str, standing: Standing | None) -> None:
        """How a neuron stands now; None where it takes no work."""
        kind, keys = self._kind, None
        reached: tuple[int, ...] = ()
        if standing is not None and standing.on_gpu is kind.on_gpu and kind.harness in standing.harnesses:
            reached = reach(standing, kind.span, kind.rank)
        if reached:
            assert standing is not None
            first = standing.idle[0] if len(reached) > 1 else None
            oldest = (first.rank, first.last_used_at, name) if first is not None else (0, 0.0, name)
            keys = ((-reached[0], name), (-reached[-1], name), oldest)
            self.reached[name] = reached
        else:
            self.reached.pop(name, None)
        before = self._keys.get(name)
        if keys != before:
            for number, order in enumerate[list[Any]]((self._free, self._most, self._idle)):
                if before is not None:
                    del order[bisect_left(order, before[number])]
                if keys is not None:
                    insort(order, keys[number])
            if keys is not None:
                self._keys[name] = keys
            else:
                del self._keys[name]

    def roomiest(self, need_mb: int) -> Iterator[str]:
        """The neurons where it fits as they are, the emptiest first."""
        return (name for _, name in takewhile(lambda key: key[0] <= -need_mb, self._free))

    def could_make_room(self, need_mb: int, shortlist: int, enough: int) -> list[Promise]:
        """What neurons promise where it fits once others are gone: all of them if they are few, else those with the
        longest idle models and those with the most to give. No more than `enough` that need but one victim, for
        whoever comes after them has no longer idle one."""
        found: list[Promise] = []
        if not self._most or self._most[0][0] > -need_mb:
            return found
        singles = 0
        for _, _, name in islice(self._idle, shortlist):
            if (promise := self.promise(name, need_mb)) is not None:
                found.append(promise)
                singles += promise[0] == 1
                if singles == enough:
                    return found
        most = [self.promise(name, need_mb) for _, name in islice(self._most, shortlist)]
        return [*{*found, *filter(None, most)}]

    def promise(self, name: str, need_mb: int) -> Promise | None:
        """What one neuron promises; None where it does not fit there whatever goes."""
        reached = self.reached.get(name)
        if reached is None or reached[-1] < need_mb:
            return None
        fewest = bisect_left(reached, need_mb)
        return (fewest, *self._keys[name][2]) if fewest else (0, 0, -reached[0], name)


class Room:
    """The lanes, and how each neuron stands."""

    def __init__(self, neurons: Mapping[str, NeuronView], rules: Rules) -> None:
        self._neurons, self._rules = neurons, rules
        self._turns = rules.outstanding.turns
        self.standings: dict[str, Standing] = {}
        self._lanes: dict[_Kind, Lane] = {}  # the last asked for is the last

    def put(self, neuron: NeuronView) -> None:
        """A neuron is believed to be so from now on. What has turned meanwhile is taken up with it: answers to polls
        come all the time, so that a decision finds little left to take up."""
        self._stand(neuron)
        self.look_again()

    def look_again(self) -> None:
        """Take up where, by our own requests, models have come into use or gone out of it."""
        outstanding = self._rules.outstanding
        if outstanding.turns != self._turns:
            for name in list(outstanding.turned_since(self._turns)):
                if name in self.standings:
                    self._stand(self._neurons[name])
            self._turns = outstanding.turns

    def lane(self, model: Model, on_gpu: bool) -> tuple[Lane, Demand]:
        """The lane of its kind, and what it needs there."""
        wanted = demand(model, on_gpu, self._rules)
        kind = _Kind(model.harness, on_gpu, wanted.span, wanted.rank)
        lane = self._lanes.pop(kind, None)
        if lane is None:
            lane = Lane(kind)
            for name, standing in self.standings.items():
                lane.put(name, standing)
            while len(self._lanes) >= _MOST_LANES:
                del self._lanes[next(iter(self._lanes))]
        self._lanes[kind] = lane
        return lane, wanted

    def _stand(self, neuron: NeuronView) -> None:
        name, before = neuron.name, self.standings.get(neuron.name)
        standing = stand(neuron, self._rules) if neuron.takes_work else None
        if standing == before:
            return
        if standing is not None:
            self.standings[name] = standing
        else:
            del self.standings[name]
        for lane in self._lanes.values():
            lane.put(name, standing)
