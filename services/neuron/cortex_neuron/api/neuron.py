"""What the handlers answer from: the daemon's parts, handed over once. Called by: every module of api."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sanic import Request

from cortex_contracts.inventory.files import NeuronSection
from cortex_neuron.api.metrics import Metrics
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.residency.activation import Preloads
from cortex_neuron.residency.residency import Residency
from cortex_serving import provenance

if TYPE_CHECKING:
    from cortex_serving.spans import Tracer


@dataclass(frozen=True, slots=True)
class Neuron:
    """The daemon, as its API sees it."""

    settings: NeuronSection
    devices: DeviceWatch
    residency: Residency
    preloads: Preloads
    metrics: Metrics
    version: str
    tracer: Tracer | None = None
    files: Callable[[], Mapping[str, str]] = dict  # digests of those it runs with, by name
    # Once, at the start: another release may be laid in the same place while this one runs.
    release: str | None = field(default_factory=provenance.release)
    started: float = field(default_factory=time.monotonic)
    started_at: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970

    @property
    def seats(self) -> int:
        """Sequences that one model may hold, running and waiting."""
        return self.settings.max_sequences + self.settings.queue_limit


def of(request: Request) -> Neuron:
    """The neuron that a request was sent to."""
    neuron: Neuron = request.app.ctx.neuron
    return neuron
