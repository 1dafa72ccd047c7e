"""A neuron without hardware: the daemon's rules for loads, seats and memory, in virtual time, with faults on demand.

Owns: what the neuron is and does. States, their refusals and the device for a load are the daemon's own
(cortex_neuron.residency). Does not own: how it is reached (network.py), or what must not happen (witness.py).
Called by: network.py (what gateways ask), faults.py (what befalls it).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire import neuron as wire
from cortex_contracts.wire.errors import CortexError, Draining, GroupDied, ModelBusy, ModelNotFound, QueueFull
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_neuron.residency import placement, recovery, states
from cortex_neuron.residency.sleep import Bed, demoted

VERSION = "sim"
_OVERHEAD_MB = 200  # what a driver takes of each device
_TAKEN_SHARE = 0.95  # of what is declared for a model
_MOST_AT_ONCE = 4  # sequences a model decodes at once; more wait
_SEATS = 12  # those that wait included
_DRAIN_TIMEOUT_S = 30.0
_RETRY_S = {ModelStatus.PENDING: 30, ModelStatus.LOADING: 5, ModelStatus.RECOVERING: 5, ModelStatus.FAILED: 30}


class Life(StrEnum):
    """How a neuron is, as seen from outside."""

    UP = "up"
    DEAD = "dead"  # connections are refused; what it held is gone
    HUNG = "hung"  # connections open, nothing answers and nothing goes on
    CUT_OFF = "cut_off"  # nothing comes through, but inside all goes on


@dataclass(frozen=True, slots=True)
class Host:
    """What a neuron is built of."""

    name: str
    devices_mb: tuple[int, ...] = (24000,)
    kind: str = "cuda"
    harnesses: tuple[str, ...] = ("torch",)
    sleep_mb: int = 0  # of host memory, for models that sleep

    @property
    def url(self) -> str:
        return f"http://{self.name}:13131"


@dataclass(eq=False, slots=True)
class Seat:
    """One request inside, and the gateway that sent it."""

    gateway: str
    end: Callable[[CortexError], None]


@dataclass(eq=False, slots=True)
class Resident:
    """One model here. Kept from the first time it is wanted."""

    model: Model
    status: ModelStatus = ModelStatus.UNLOADED
    pinned: bool = False
    devices: tuple[int, ...] = ()
    taken_mb: int = 0  # of its devices together
    asleep: Bed | None = None
    failure: wire.Failure | None = None
    seats: set[Seat] = field(default_factory=set)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_AT_ONCE))
    vacant: asyncio.Event = field(default_factory=asyncio.Event)
    deaths: list[float] = field(default_factory=list)
    last_used_at: float | None = None
    progress: wire.Progress | None = None
    loads: int = 0
    work: asyncio.Task[None] | None = None
    unloading: asyncio.Task[None] | None = None

    def become(self, status: ModelStatus, failure: wire.Failure | None = None) -> None:
        """Change state. Raises the daemon's IllegalTransition."""
        states.check_transition(self.model.id, self.status, status)
        self.status, self.failure, self.progress = status, failure, None


class SimNeuron:
    """One neuron. Faults are attributes that a test sets."""

    def __init__(self, host: Host, catalogue: Mapping[str, Model], rng: random.Random) -> None:
        self.host, self.catalogue, self.rng = host, catalogue, rng
        self.life = Life.UP
        self.slowness = 1.0  # how many times longer its work takes
        self.ill = False  # every request that is let in ends with a 500
        self.failing: Counter[str] = Counter()  # loads that will fail, by model
        self.changed = asyncio.Event()  # set, and replaced, when its life changes
        self.lag = 1.0  # how many times longer the way there takes
        self.inside: set[asyncio.Task[None]] = set()  # requests, whose connections die with it
        self.connections: set[asyncio.Protocol] = set()  # those that polls come on
        self.on_unload: Callable[[Resident], None] = lambda resident: None  # told before it begins
        self.on_demotion: Callable[[Resident, str | None], None] = lambda resident, newcomer: (
            None
        )  # the same, of sleepers
        self.on_sleep: Callable[[], None] = lambda: None  # told once one sleeps
        self._begin()

    def _begin(self) -> None:
        self.mode = NeuronState.READY
        self.residents: dict[str, Resident] = {}
        self._turn = asyncio.Lock()  # one falls asleep at a time
        self._report: bytes | None = None

    # ---- what befalls it

    def live(self, life: Life) -> None:
        """Die, hang, be cut off, or be there again: after death with empty memory."""
        before, self.life = self.life, life
        if life is Life.DEAD:
            self._die()
        elif before is Life.DEAD:
            self._begin()
            for model in self.catalogue.values():
                if self.host.name in model.preload_on:
                    self._preload(model)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _die(self) -> None:
        for task in [*self.inside, *(each for one in self.residents.values() for each in (one.work, one.unloading))]:
            if task is not None:
                task.cancel()
        self.residents = {}
        lost, self.connections = self.connections, set()
        for connection in lost:
            connection.connection_lost(ConnectionResetError("the neuron died"))

    def _preload(self, model: Model) -> None:
        with suppress(CortexError):  # no room: somebody asks for it later
            self._start_load(self._resident(model.id), None)

    def furnish(self, model_id: str) -> None:
        """Have a model loaded already. Raises NoCapacity."""
        resident = self._resident(model_id)
        if resident.status is ModelStatus.UNLOADED:
            resident.devices = self._place(resident.model, None)
            resident.become(ModelStatus.LOADING)
            self._loaded(resident)

    def crash(self, model_id: str) -> None:
        """End a model's group from outside: one that is loaded recovers by itself, if it does not do so too often; one
        that sleeps is unloaded."""
        resident = self.residents[model_id]
        if resident.status is ModelStatus.SLEEPING:
            resident.become(ModelStatus.DRAINING)
            resident.unloading = asyncio.create_task(self._unload(resident, None))
        if resident.status is ModelStatus.LOADED:
            resident.become(ModelStatus.RECOVERING, wire.Failure(kind="device_lost", message="the group died"))
            self._end_seats(resident, GroupDied("the group died"))
            resident.taken_mb = 0
            resident.work = asyncio.create_task(self._recover(resident))
        self.touch()

    def drain(self, drained: bool) -> None:
        self.mode = NeuronState.DRAINING if drained else NeuronState.READY
        self.touch()

    def touch(self) -> None:
        """Something has changed: the next report is a new one."""
        self._report = None

    # ---- what gateways ask

    def discovery(self) -> wire.Discovery:
        specs = [
            wire.DeviceSpec(index=index, name="card", vram_total_mb=total)
            for index, total in enumerate(self.host.devices_mb)
        ]
        return wire.Discovery(
            hostname=self.host.name, os="Linux", kernel="6", device_kind=self.host.kind, devices=specs,
            harnesses=list(self.host.harnesses), version=VERSION, sleep_host_memory_mb=self.host.sleep_mb,
        )  # fmt: skip

    def report_json(self) -> bytes:
        """GET /report; the same object until something changes."""
        if self._report is None:
            free = self.free_mb()
            devices = [
                wire.DeviceHealth(index=index, vram_used_mb=total - free[index], vram_free_mb=free[index])
                for index, total in enumerate(self.host.devices_mb)
            ]
            models = [
                wire.ModelHealth(id=each.model.id, status=each.status, in_flight=len(each.seats))
                for each in self.residents.values()
            ]
            condition = wire.Condition(
                state=self.mode, activation=wire.Activation(), devices=devices, models=models, version=VERSION
            )
            rows = [self.row(name) for name in self.residents]
            self._report = wire.Report(health=condition, models=rows).model_dump_json().encode()
        return self._report

    def row(self, model_id: str) -> wire.ModelRow:
        """Raises ModelNotFound."""
        each = self._resident(model_id)
        return wire.ModelRow(
            id=model_id, harness=each.model.harness, status=each.status, devices=list(each.devices),
            vram_used_mb=each.taken_mb if each.status is ModelStatus.LOADED else 0, failure=each.failure,
            retry_after_s=_RETRY_S.get(each.status), last_used_at=each.last_used_at, loads=each.loads,
            pinned=each.pinned, progress=each.progress, host_memory_mb=each.asleep.host_mb if each.asleep else 0,
        )  # fmt: skip

    def pin(self, model_id: str, pinned: bool) -> Resident:
        resident = self._resident(model_id)
        resident.pinned = pinned
        self.touch()
        return resident

    def load(self, wanted: wire.LoadRequest) -> Resident:
        """See that it is being loaded. Raises what the daemon would (case L1: one load of a model at a time)."""
        self._check_open()
        resident = self._resident(wanted.model_id)
        if states.is_wanted(resident.status):
            return resident
        if resident.status is ModelStatus.DRAINING:
            raise states.refusal(resident.model.id, resident.status, None)
        slept_on = resident.devices
        if resident.status is ModelStatus.SLEEPING and wanted.devices not in (None, list(slept_on)):
            resident.asleep = None  # it is loaded from its files elsewhere
        self._start_load(resident, list(slept_on) if resident.asleep and self.host.kind == "cuda" else wanted.devices)
        return resident

    async def unload(
        self, model_id: str, if_idle: bool, level: wire.UnloadLevel | None = None, newcomer: str | None = None
    ) -> Resident:
        """Let running requests end, up to a bound, then free its memory; one unload however many ask.

        With `level` sleep it keeps its place, where there is room. Raises ModelBusy with `if_idle`, where it is in use.
        """
        resident = self._resident(model_id)
        if resident.status is ModelStatus.UNLOADED or (level and resident.status is ModelStatus.SLEEPING):
            return resident
        if if_idle and (resident.seats or resident.status in states.BUSY):
            raise ModelBusy(f"model {model_id} is {resident.status}, with {len(resident.seats)} seats taken")
        if resident.unloading is None:
            self.on_unload(resident)
            resident.become(ModelStatus.DRAINING)
            self.touch()
            resident.unloading = asyncio.create_task(self._unload(resident, level, newcomer))
        await asyncio.shield(resident.unloading)
        return resident

    @asynccontextmanager
    async def seat(self, model_id: str, seat: Seat) -> AsyncIterator[Resident]:
        """A seat for one request, whose turn has come when this is entered. Raises the daemon's refusals."""
        self._check_open()
        resident = self._resident(model_id)
        if resident.status is not ModelStatus.LOADED:
            raise states.refusal(model_id, resident.status, None)
        if len(resident.seats) >= _SEATS:
            raise QueueFull(f"all {_SEATS} seats of this model are taken")
        resident.seats.add(seat)
        resident.vacant.clear()
        resident.last_used_at = time.time()
        self.touch()
        try:
            async with resident.slots:
                yield resident
        finally:
            resident.seats.discard(seat)
            resident.last_used_at = time.time()
            self.touch()
            if not resident.seats:
                resident.vacant.set()

    async def spend(self, seconds: float) -> None:
        """Let time pass in here: longer where it is slow, and as long as it hangs."""
        await asyncio.sleep(seconds * self.slowness)
        while self.life is Life.HUNG:
            await self.changed.wait()

    # ---- inside

    def free_mb(self) -> dict[int, int]:
        """Free memory by device."""
        free = {index: total - _OVERHEAD_MB for index, total in enumerate(self.host.devices_mb)}
        for each in self.residents.values():
            for index in each.devices:
                free[index] -= each.taken_mb // len(each.devices)
        return {index: max(0, mb) for index, mb in free.items()}

    def _check_open(self) -> None:
        if self.mode is NeuronState.DRAINING:
            raise Draining("this neuron is drained")

    def _resident(self, model_id: str) -> Resident:
        if model_id not in self.residents:
            model = self.catalogue.get(model_id)
            if model is None:
                raise ModelNotFound(f"no model {model_id!r} on this neuron", param="model")
            self.residents[model_id] = Resident(model)
        return self.residents[model_id]

    def _start_load(self, resident: Resident, asked: list[int] | None) -> None:
        resident.devices = self._place(resident.model, asked)
        resident.become(ModelStatus.LOADING)
        resident.work = asyncio.create_task(self._load(resident))
        self.touch()

    def _place(self, model: Model, asked: Iterable[int] | None) -> tuple[int, ...]:
        """The devices it will take. Raises NoCapacity with the daemon's words."""
        span = max(model.tensor_parallel, model.min_devices) if self.host.kind == "cuda" else 1
        need = max(-(-model.vram_mb // span), model.min_device_vram_mb)
        reserved: Counter[int] = Counter()
        for each in self.residents.values():
            if each.status in states.BUSY:
                for index in each.devices:
                    reserved[index] += (each.model.vram_mb - each.taken_mb) // len(each.devices)
        free = self.free_mb()
        known = None if asked is None else [index for index in free if index in asked]
        return placement.choose(need, free, reserved, known, span)

    async def _load(self, resident: Resident) -> None:
        half_s = 0.2 if resident.asleep else (2.0 + resident.model.vram_mb / 8000) * self.rng.uniform(0.4, 0.7)
        for fraction in (0.5, 1.0):
            await self.spend(half_s)
            resident.taken_mb = int(resident.model.vram_mb * _TAKEN_SHARE)
            resident.progress = wire.Progress(phase="weights", fraction=fraction)
            self.touch()
        resident.asleep = None
        if self.failing[resident.model.id]:
            self.failing[resident.model.id] -= 1
            resident.taken_mb = 0
            resident.become(ModelStatus.FAILED, wire.Failure(kind="load_failed", message="it was to fail"))
            return
        self._loaded(resident)

    def _loaded(self, resident: Resident) -> None:
        resident.taken_mb = int(resident.model.vram_mb * _TAKEN_SHARE)
        resident.loads += 1
        resident.become(ModelStatus.LOADED)
        resident.vacant.set()
        self.touch()

    async def _recover(self, resident: Resident) -> None:
        now = asyncio.get_running_loop().time()
        resident.deaths.append(now)
        wait_s = recovery.next_start_s(resident.deaths, now)
        if wait_s is None:
            resident.become(ModelStatus.FAILED, wire.Failure(kind="device_lost", message="it has died too often"))
            self.touch()
            return
        await self.spend(wait_s)
        resident.become(ModelStatus.LOADING)
        self.touch()
        await self._load(resident)

    async def _unload(self, resident: Resident, level: wire.UnloadLevel | None, newcomer: str | None = None) -> None:
        if resident.work is not None:
            resident.work.cancel()
            await asyncio.gather(resident.work, return_exceptions=True)
        try:
            if resident.seats:
                async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                    await resident.vacant.wait()
        except TimeoutError:
            self._end_seats(resident, Draining("the model is being unloaded"))
        await self.spend(self.rng.uniform(0.1, 0.5))
        if level is not None and await self._bed(resident, newcomer):
            resident.taken_mb, resident.unloading = 0, None
            resident.become(ModelStatus.SLEEPING)
        else:
            resident.devices, resident.taken_mb, resident.unloading, resident.asleep = (), 0, None, None
            resident.become(ModelStatus.UNLOADED)
        self.touch()

    async def _bed(self, resident: Resident, newcomer: str | None) -> bool:
        """Whether there is room for it to sleep; who has slept longest makes some."""
        async with self._turn:
            while gone := demoted(resident.taken_mb, self.host.sleep_mb, self._beds(newcomer)):
                self.on_demotion(self.residents[gone[0]], newcomer)
                await self.unload(gone[0], if_idle=False)
            if gone is not None:
                resident.asleep = Bed(asyncio.get_running_loop().time(), resident.model.id, resident.taken_mb)
                self.on_sleep()
        return gone is not None

    def _beds(self, newcomer: str | None) -> list[Bed]:
        sleepers = [each for each in self.residents.values() if each.asleep is not None]
        wanted = {each.model.id for each in sleepers if each.status is ModelStatus.LOADING} | {newcomer}
        return [replace(each.asleep, wanted=each.model.id in wanted) for each in sleepers]

    def _end_seats(self, resident: Resident, why: CortexError) -> None:
        for seat in list(resident.seats):
            seat.end(why)
