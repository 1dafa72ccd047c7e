"""The fleet as it is believed to be: what routing decides over and the API shows.

Owns: the shapes, which are frozen, and the Snapshot over them, which is not. Does not own: how they come to be
(beliefs.py). No I/O.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, TypeVar, cast

import msgspec

from cortex_contracts.wire.neuron import Failure, ModelStatus, NeuronState, Progress


class Reach(StrEnum):
    """Whether a neuron answers. Transitions: beliefs.REACH."""

    UNKNOWN = "unknown"  # not yet answered, not yet given up
    UP = "up"
    DOWN = "down"


class DeviceView(msgspec.Struct, frozen=True):
    """One device of a neuron and its memory now."""

    index: int
    vram_total_mb: int
    vram_free_mb: int
    name: str = ""


class ModelView(msgspec.Struct, frozen=True):
    """One model on one neuron. `elsewhere` counts requests there that are not this gateway's.

    Thousands are made and compared each second: a Struct is, at a fifth of a dataclass's cost.
    """

    id: str
    status: ModelStatus
    elsewhere: int = 0
    devices: tuple[int, ...] = ()
    vram_used_mb: int = 0
    last_used_at: float | None = None  # seconds since 1970
    progress: Progress | None = None
    failure: Failure | None = None
    retry_after_s: int | None = None
    context: int | None = None
    task: str | None = None
    loads: int = 0  # how often it has been loaded there
    host_memory_mb: int = 0  # of one that sleeps
    pinned: bool = False  # by an operator; the inventory's pins stand in the catalogue


@dataclass(frozen=True, slots=True)
class NeuronView:
    """One neuron. What it said last stays here while it is down, but nothing is routed by it."""

    name: str
    url: str
    reach: Reach = Reach.UNKNOWN
    strikes: int = 0
    state: NeuronState | None = None
    version: str | None = None
    device_kind: str = ""
    devices: tuple[DeviceView, ...] = ()
    harnesses: frozenset[str] = frozenset()
    models: Mapping[str, ModelView] = field(default_factory=lambda: MappingProxyType({}))
    sleep_host_memory_mb: int = 0  # that it has set aside for models which sleep

    @property
    def healthy(self) -> bool:
        """It answers; it may still be draining."""
        return self.reach is Reach.UP

    @property
    def takes_work(self) -> bool:
        """New requests and loads may go there."""
        return self.healthy and self.state in (NeuronState.READY, NeuronState.ACTIVATING)

    @property
    def puts_to_sleep(self) -> bool:
        """What is evicted there is to sleep. On a CPU it would keep the very memory that is wanted."""
        return self.sleep_host_memory_mb > 0 and self.device_kind == "cuda"


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on a neuron that answers."""

    neuron: NeuronView
    model: ModelView


class Index(Protocol):
    """What a decision looks things up in, made from every neuron and told of each change."""

    def put(self, neuron: NeuronView) -> None: ...


_Index = TypeVar("_Index", bound=Index)


class Snapshot:
    """The fleet. A view, true until the next await: one poll's answer changes little of a large fleet, and pays for
    that alone. Neurons neither come nor go: another set of them is another snapshot.
    """

    __slots__ = ("_index", "_where", "neurons", "num_answering", "num_taking_work")

    def __init__(self, neurons: Iterable[NeuronView] = ()) -> None:
        self.neurons: dict[str, NeuronView] = {}
        self.num_answering = 0
        self.num_taking_work = 0
        self._where: dict[str, list[str]] = {}
        self._index: tuple[object, Index] | None = None
        for neuron in neurons:
            self.put(neuron)

    @classmethod
    def of(cls, neurons: Mapping[str, NeuronView]) -> Snapshot:
        """That of neurons by name."""
        return cls(neurons.values())

    def put(self, neuron: NeuronView) -> None:
        """Believe this of a neuron from now on. Called by beliefs.py alone, once the snapshot is in use."""
        name, before = neuron.name, self.neurons.get(neuron.name)
        self.neurons[name] = neuron
        if before is None or before.models is not neuron.models or before.healthy is not neuron.healthy:
            self._list(name, _listed(before) if before is not None else frozenset(), _listed(neuron))
        self.num_answering += neuron.healthy - (before is not None and before.healthy)
        self.num_taking_work += neuron.takes_work - (before is not None and before.takes_work)
        if self._index is not None:
            self._index[1].put(neuron)

    def _list(self, name: str, before: frozenset[str], after: frozenset[str]) -> None:
        for model_id in after - before:
            insort(self._where.setdefault(model_id, []), name)
        for model_id in before - after:
            self._where[model_id].remove(name)
            if not self._where[model_id]:
                del self._where[model_id]

    def where(self, model_id: str) -> Sequence[str]:
        """The neurons that answer and know the model as other than unloaded, by name."""
        return self._where.get(model_id, ())

    def replicas_of(self, model_id: str) -> tuple[Replica, ...]:
        """The same with what they say of it."""
        neurons = (self.neurons[name] for name in self.where(model_id))
        return tuple(Replica(neuron, neuron.models[model_id]) for neuron in neurons)

    @property
    def replicas(self) -> Mapping[str, tuple[Replica, ...]]:
        """All of them, by model."""
        return {model_id: self.replicas_of(model_id) for model_id in self._where}

    def index(self, key: object, make: Callable[[], _Index]) -> _Index:
        """The index of this `key`, kept up to date from its first use on. There is one: that of the last key."""
        if self._index is None or self._index[0] is not key:
            made = make()
            for neuron in self.neurons.values():
                made.put(neuron)
            self._index = (key, made)
        return cast(_Index, self._index[1])


def _listed(neuron: NeuronView) -> frozenset[str]:
    if not neuron.healthy:
        return frozenset()
    return frozenset([view.id for view in neuron.models.values() if view.status is not ModelStatus.UNLOADED])
