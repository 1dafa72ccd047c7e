"""Where a model that is loaded nowhere can be put, and what has to go for it (cases L6, L7).

Where the inventory wants it, then where it fits as it is, then where it fits once others are gone (fewest, then lowest,
then longest idle), and where it has failed last of all. Where it sleeps comes first among those that need as few gone.
Owns: that order. Does not own: what one neuron can take (standing.py). Pure. Called by: decide.py, explain.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import islice

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.snapshot import NeuronView, Snapshot
from cortex_gateway.routing.decision import Load
from cortex_gateway.routing.room import Lane, Promise, Room
from cortex_gateway.routing.rules import Rules
from cortex_gateway.routing.standing import Demand, Fit, Standing, alone, make_room, reach, staying

_NAMED_IN_ERRORS = 6
_SHORTLIST = 16  # neurons that are looked at of those that could make room, from each of two ends
_COMPARED = 2  # of those, with equally few victims, that are worked out in full


@dataclass(frozen=True, slots=True)
class Option:
    """A way to place the model, and how good it is: smaller ranks are better, and comparable to a Promise."""

    load: Load
    rank: tuple[int, int, float, str]


@dataclass(frozen=True, slots=True)
class Search:
    """One model that is looked for room for. `lanes` is its lane and demand on GPU hosts and on others."""

    snapshot: Snapshot
    room: Room
    lanes: Mapping[bool, tuple[Lane, Demand]]
    model: Model
    avoid: AbstractSet[str]

    def option(self, name: str) -> Option | str:
        """The best way to place it on this neuron, or why there is none."""
        neuron = self.snapshot.neurons[name]
        if (reason := self.barred(neuron)) is not None:
            return reason
        standing = self.room.standings[name]
        lane, wanted = self.lanes[standing.on_gpu]
        reached = lane.reached.get(name, ())
        waking = self._waking(neuron, standing, wanted)
        if not reached:
            devices = len(standing.free)
            return f"has {devices} device{'' if devices == 1 else 's'}, {wanted.span} needed"
        found = make_room(standing, wanted, reached) if reached[-1] >= wanted.need_mb else None
        if waking is not None and (found is None or len(waking.gone) <= len(found.gone)):
            return _option(neuron, waking, wakes=True)
        if found is None:
            return _too_little(reached, wanted, staying(standing, wanted.rank))
        return _option(neuron, found)

    def _waking(self, neuron: NeuronView, standing: Standing, wanted: Demand) -> Fit | None:
        """How it fits where it sleeps, if it does: on those devices, for its weights go back to them. On a CPU it has
        part of its memory already."""
        known = neuron.models.get(self.model.id)
        if known is None or known.status is not ModelStatus.SLEEPING:
            return None
        here = alone(standing, known.devices, 0 if standing.on_gpu else known.host_memory_mb)
        reached = reach(here, wanted.span, wanted.rank)
        return make_room(here, wanted, reached) if reached and reached[-1] >= wanted.need_mb else None

    def barred(self, neuron: NeuronView) -> str | None:
        """Why nothing new goes to this neuron, whatever its memory."""
        if neuron.name in self.avoid:
            return "it has just failed"
        if not neuron.takes_work:
            return "not reachable" if not neuron.healthy else f"{neuron.state}"
        if self.model.harness not in neuron.harnesses:
            return f"has no harness {self.model.harness}"
        known = neuron.models.get(self.model.id)
        if known is not None and known.status is ModelStatus.DRAINING:
            return "is unloading it"
        return None

    def best(self, promises: Iterable[Promise | None]) -> Option | None:
        """The best of these neurons; only those are worked out in full that promise to be it."""
        best: Option | None = None
        for number, promise in enumerate(sorted(filter(None, promises))):
            if best is not None and (best.rank <= promise or (number >= _COMPARED and promise[0] == best.rank[0])):
                break
            option = self.option(promise[3])
            if isinstance(option, Option) and (best is None or option.rank < best.rank):
                best = option
        return best

    def among(self, names: Iterable[str]) -> Option | None:
        """The best of few neurons."""
        standings = self.room.standings
        lanes = [(name, *self.lanes[standings[name].on_gpu]) for name in names if name in standings]
        return self.best([lane.promise(name, wanted.need_mb) for name, lane, wanted in lanes])

    def asleep(self, names: Iterable[str], other: Option | None) -> Option | None:
        """The best of those where it wakes, unless another way needs fewer victims."""
        options = [each for name in islice(names, _SHORTLIST) if isinstance(each := self.option(name), Option)]
        waking = min([each for each in options if each.load.wakes], key=lambda each: each.rank, default=None)
        if waking is None or (other is not None and other.rank[0] < waking.rank[0]):
            return other
        return waking

    def elsewhere(self, skip: AbstractSet[str]) -> Option | None:
        """The best of all neurons but these: with room as they are or, where none has that, of a shortlist."""
        roomiest: list[str] = []
        for lane, wanted in self.lanes.values():
            roomiest += islice((name for name in lane.roomiest(wanted.need_mb) if name not in skip), 1)
        if roomiest:
            return self.among(roomiest)
        promises: list[Promise] = []
        for lane, wanted in self.lanes.values():
            promises += lane.could_make_room(wanted.need_mb, _SHORTLIST + len(skip), _COMPARED + len(skip))
        return self.best([promise for promise in promises if promise[3] not in skip] if skip else promises)


def search(snapshot: Snapshot, model: Model, rules: Rules, avoid: AbstractSet[str] = frozenset()) -> Search:
    """What finds room for the model, with the index brought up to date."""
    room = snapshot.index(rules, partial(Room, snapshot.neurons, rules))
    room.look_again()
    return Search(snapshot, room, {on_gpu: room.lane(model, on_gpu) for on_gpu in (True, False)}, model, avoid)


def place(snapshot: Snapshot, model: Model, rules: Rules, avoid: AbstractSet[str]) -> Load | list[str]:
    """The best placement, or the reasons why not of the first few neurons."""
    looking = search(snapshot, model, rules, avoid)
    known = {name: snapshot.neurons[name].models[model.id].status for name in snapshot.where(model.id)}
    failed = [name for name, status in known.items() if status is ModelStatus.FAILED and name not in avoid]
    skip = avoid | {name for name, status in known.items() if status in (ModelStatus.FAILED, ModelStatus.DRAINING)}
    wanted = {name for name in (*model.pinned_on, *model.preload_on) if name not in skip}
    asleep = [name for name, status in known.items() if status is ModelStatus.SLEEPING and name not in skip]
    best = (
        looking.asleep([name for name in asleep if name in wanted], looking.among(wanted))
        or looking.asleep(asleep, looking.elsewhere(skip))
        or looking.among(failed)
    )
    return best.load if best is not None else _reasons(looking)


def _option(neuron: NeuronView, found: Fit, wakes: bool = False) -> Option:
    gone, name = found.gone, neuron.name
    load = Load(neuron, devices_to_ask(neuron, found.devices), tuple([idle.id for idle in gone]), wakes)
    if not gone:
        return Option(load, (0, 0, -found.left_mb, name))
    last_used_at = max([idle.last_used_at for idle in gone])
    return Option(load, (len(gone), max([idle.rank for idle in gone]), last_used_at, name))


def devices_to_ask(neuron: NeuronView, chosen: tuple[int, ...]) -> tuple[int, ...] | None:
    """What a load names: devices of a GPU host. A CPU host has nothing to choose."""
    return chosen if neuron.device_kind == "cuda" else None


def _too_little(reached: Sequence[int], wanted: Demand, stay: list[str]) -> str:
    emptiest = f"each of its {wanted.span} emptiest devices" if wanted.span > 1 else "its emptiest device"
    at_most = f", {reached[-1]} MB with all gone that may go" if len(reached) > 1 else ""
    stays = f" (what stays: {', '.join(stay)})" if stay else ""
    return f"{reached[0]} MB free on {emptiest}{at_most}, {wanted.need_mb} MB needed{stays}"


def _reasons(looking: Search) -> list[str]:
    names = looking.snapshot.neurons
    reasons = [f"{name}: {looking.option(name)}" for name in islice(names, _NAMED_IN_ERRORS)]
    more = len(names) - len(reasons)
    return [*reasons, f"and {more} more"] if more else reasons
