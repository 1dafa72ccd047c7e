"""The fleet at one moment, as frozen values: what routing decides over and the API shows.

Owns: the shapes. Does not own: how they come to be (beliefs.py). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from cortex_contracts.wire.neuron import Failure, ModelStatus, NeuronState, Progress


class Reach(StrEnum):
    """Whether a neuron answers. Transitions: beliefs.REACH."""

    UNKNOWN = "unknown"  # not yet answered, not yet given up
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device of a neuron and its memory now."""

    index: int
    vram_total_mb: int
    vram_free_mb: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model on one neuron. `elsewhere` counts requests there that are not this gateway's."""

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

    @property
    def healthy(self) -> bool:
        """It answers; it may still be draining."""
        return self.reach is Reach.UP

    @property
    def takes_work(self) -> bool:
        """New requests and loads may go there."""
        return self.healthy and self.state in (NeuronState.READY, NeuronState.ACTIVATING)


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on a neuron that answers."""

    neuron: NeuronView
    model: ModelView


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet. `replicas` is the index by model id, over neurons that answer."""

    neurons: Mapping[str, NeuronView]
    replicas: Mapping[str, tuple[Replica, ...]]

    @classmethod
    def of(cls, neurons: Mapping[str, NeuronView]) -> Snapshot:
        """A snapshot with its index."""
        replicas: dict[str, list[Replica]] = {}
        for neuron in neurons.values():
            if neuron.healthy:
                for model in neuron.models.values():
                    replicas.setdefault(model.id, []).append(Replica(neuron, model))
        return cls(MappingProxyType(dict(neurons)), MappingProxyType({k: tuple(v) for k, v in replicas.items()}))

    def replicas_of(self, model_id: str) -> tuple[Replica, ...]:
        """Where a model is known, on neurons that answer; () when nowhere."""
        return self.replicas.get(model_id, ())
