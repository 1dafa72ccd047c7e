"""One model of the catalogue on this neuron: its state, what serves it, its seats.

Owns: the state and its transitions, and who sits in it. Does not own: how it is loaded (loading.py). Called by:
residency, inference.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import CortexError
from cortex_contracts.wire.neuron import Failure, ModelHealth, ModelRow, ModelStatus, Progress
from cortex_neuron.residency import states
from cortex_neuron.residency.harness import Order, Serving
from cortex_serving import logs

_RETRY_S = {ModelStatus.PENDING: 30, ModelStatus.LOADING: 5, ModelStatus.RECOVERING: 5, ModelStatus.FAILED: 30}


@dataclass(frozen=True, slots=True)
class Asleep:
    """What served a model, and will again once it is woken."""

    serving: Serving
    host_mb: int
    since: float  # by time.monotonic


@dataclass(slots=True)
class Resident:
    """The catalogue's entry and what has become of it here."""

    model: Model
    harness: str = ""  # the one it was last loaded with; at first that of the catalogue
    status: ModelStatus = ModelStatus.UNLOADED
    leaving: bool = False  # its entry is gone from the catalogue, and it goes once it is unloaded
    pinned: bool = False  # by an operator, for this daemon's life; it is gateways that evict, and they keep to it
    serving: Serving | None = None
    asleep: Asleep | None = None  # in the place of `serving`, until it has been woken or ended
    order: Order | None = None  # of the last load
    progress: Progress | None = None
    failure: Failure | None = None
    devices: tuple[int, ...] = ()  # from placement on
    seats_taken: int = 0
    loads: int = 0
    load_s: float | None = None  # how long the last load took
    deaths: Counter[str] = field(default_factory=Counter)  # ends that nobody asked for, by kind
    last_used_at: float | None = None  # seconds since 1970
    work: asyncio.Task[None] | None = None  # the load, recovery or watch in progress
    vacant: asyncio.Event = field(default_factory=asyncio.Event)  # set while no seat is taken
    _changed: asyncio.Event = field(default_factory=asyncio.Event)  # set when the state is another, once

    def __post_init__(self) -> None:
        self.harness = self.harness or self.model.harness
        self.vacant.set()

    def become(self, status: ModelStatus, failure: Failure | None = None) -> None:
        """Change state. Raises IllegalTransition."""
        states.check_transition(self.model.id, self.status, status)
        logs.info("model_status", model=self.model.id, before=self.status, after=status, kind=failure and failure.kind)
        self.status, self.failure = status, failure
        if status is not ModelStatus.LOADING:
            self.progress = None
        self._changed.set()
        self._changed = asyncio.Event()

    async def left(self, statuses: Collection[ModelStatus]) -> None:
        """Wait until its state is none of these."""
        while self.status in statuses:
            await self._changed.wait()

    @property
    def remains(self) -> Serving | None:
        """What serves it, or will again: what there is to end."""
        return self.serving if self.asleep is None else self.asleep.serving

    def take(self, model: Model) -> None:
        """This is its entry from now on. What it was loaded with stays until it is unloaded; only sampling is no
        affair of the engine's start."""
        self.model, self.leaving = model, False
        if self.status is ModelStatus.UNLOADED:
            self.harness = model.harness
        if self.serving is not None:
            self.serving.prefer(model.sampling)

    def lend(self) -> Serving:
        """What serves a request. Raises the 503 of the state."""
        if self.status is not ModelStatus.LOADED or self.serving is None or self.serving.died.done():
            raise self.refusal()
        self.last_used_at = round(time.time(), 3)
        return self.serving

    def refusal(self) -> CortexError:
        """The error for a request that this state cannot serve."""
        status = self.status
        if status is ModelStatus.LOADED:  # its group died a moment ago
            status = ModelStatus.RECOVERING
        return states.refusal(self.model.id, status, self.failure.message if self.failure else None)

    @contextmanager
    def seats(self, count: int) -> Iterator[None]:
        """Hold `count` seats, and give them back whatever happens (case L9)."""
        self.seats_taken += count
        self.vacant.clear()
        try:
            yield
        finally:
            self.seats_taken -= count
            self.last_used_at = round(time.time(), 3)
            if not self.seats_taken:
                self.vacant.set()

    def row(self) -> ModelRow:
        """GET /models/{id}"""
        serving, known = self.serving, self.remains
        return ModelRow(
            id=self.model.id,
            harness=self.harness,
            status=self.status,
            devices=list(self.devices),
            vram_used_mb=serving.size.vram_mb if serving else 0,
            host_memory_mb=self.asleep.host_mb if self.asleep else 0,
            context=known.size.context if known else self.model.context,
            task=self._task(),
            progress=self.progress,
            failure=self.failure,
            retry_after_s=_RETRY_S.get(self.status),
            last_used_at=self.last_used_at,
            loads=self.loads,
            pinned=self.pinned,
        )

    def _task(self) -> str | None:
        known = self.remains
        if known is not None:
            return known.task
        return None if self.model.task == "auto" else self.model.task

    def health(self) -> ModelHealth:
        """This model's line in GET /health."""
        serving = self.serving
        return ModelHealth(
            id=self.model.id,
            status=self.status,
            in_flight=self.seats_taken,
            queue_depth=serving.figures.waiting if serving else 0,
            kv_blocks_total=serving.size.kv_blocks if serving else 0,
            kv_blocks_free=serving.figures.kv_blocks_free if serving else 0,
        )
