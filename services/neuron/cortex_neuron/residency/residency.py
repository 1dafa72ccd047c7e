"""Which models are on this neuron: loading, unloading, recovering, and whether anything new is taken.

Owns: the set of residents, single flight per model (case L1), and one task a model that loads it, watches it
and starts it again. Does not own: the steps of a load (loading.py) or requests (inference). Called by: api, daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import (
    CortexError,
    Draining,
    InvalidRequest,
    ModelBusy,
    ModelFailed,
    ModelNotFound,
    NoCapacity,
    ShuttingDown,
    UnsupportedArchitecture,
)
from cortex_contracts.wire.neuron import (
    DeviceHealth,
    Failure,
    LoadRequest,
    ModelStatus,
    NeuronState,
    UnloadLevel,
)
from cortex_neuron.hardware import devices
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.residency import files, placement, recovery, states
from cortex_neuron.residency.catalogue_change import concerns_the_engine
from cortex_neuron.residency.drain_mark import DrainMark
from cortex_neuron.residency.harness import Harness, LoadFailed, Order, Serving
from cortex_neuron.residency.phases import Phases
from cortex_neuron.residency.resident import Asleep, Resident
from cortex_neuron.residency.sleep import Sleepers
from cortex_serving import logs


class Residency:
    """Every model of the catalogue, by id and by alias."""

    def __init__(
        self,
        settings: NeuronSection,
        models: Iterable[Model],
        devices: DeviceWatch,
        harnesses: Mapping[str, Harness],
        drain_mark: DrainMark,
    ) -> None:
        self.residents = {model.id: Resident(model) for model in models}
        self.mode = NeuronState.DRAINING if settings.drained or drain_mark.is_set else NeuronState.READY
        self._names = self._named()
        self._settings = settings
        self._drain_mark = drain_mark
        self._devices = devices
        self._harnesses = harnesses
        self._unloads: dict[str, asyncio.Task[None]] = {}
        self._sleepers = Sleepers(settings.sleep_host_memory_mb, settings.load_timeout_s, self.unload)

    def find(self, name: str) -> Resident:
        """The model of that id or alias. Raises ModelNotFound, with those there are."""
        resident = self._names.get(name)
        if resident is None:
            raise ModelNotFound(f"no model {name!r} on this neuron; there are {sorted(self._names)}", param="model")
        return resident

    def known(self, name: str) -> Resident | None:
        """The model of that id or alias, if there is one."""
        return self._names.get(name)

    def has(self, harness: str) -> bool:
        """Whether a model may be served by it."""
        return harness in self._harnesses

    @property
    def harnesses(self) -> list[str]:
        """What this neuron can load models with, now."""
        return [name for name, harness in self._harnesses.items() if harness.present]

    def check_open(self, also_drained: bool = False) -> None:
        """Raises ShuttingDown or Draining where nothing new is taken; with `also_drained`, an operator's own is."""
        if self.mode is NeuronState.STOPPING:
            raise ShuttingDown("this neuron is shutting down")
        if self.mode is NeuronState.DRAINING and not also_drained:
            raise Draining("this neuron is drained")

    # ---- the catalogue

    def take(self, model: Model) -> Resident:
        """From now on this is the model's entry, of one that is new or known; an engine that runs it is not touched."""
        resident = self.residents.setdefault(model.id, Resident(model))
        if concerns_the_engine(resident.model, model):
            self._sleepers.forgo(model.id)  # where it falls asleep now, it would with the old entry
        resident.take(model)
        self._names = self._named()
        return resident

    def drop(self, model_id: str) -> None:
        """It has no entry any more: it is unknown once it is unloaded."""
        resident = self.residents[model_id]
        resident.leaving = True
        self.begin_unload(resident)
        self._let_go(resident)
        self._names = self._named()

    def begin_unload(self, resident: Resident) -> None:
        """Unload it, without waiting for that."""
        if resident.status is not ModelStatus.UNLOADED:
            self._unloading(resident, Draining(f"model {resident.model.id} is being unloaded"))

    def _let_go(self, resident: Resident) -> None:
        if resident.leaving and resident.status is ModelStatus.UNLOADED:
            del self.residents[resident.model.id]
            self._names = self._named()

    def _named(self) -> dict[str, Resident]:
        """By id and alias. Those of a model that leaves are free for others."""
        staying_last = sorted(self.residents.values(), key=lambda each: not each.leaving)
        return {name: each for each in staying_last for name in (each.model.id, *each.model.aliases)}

    # ---- load

    async def load(self, asked: LoadRequest, also_drained: bool = False) -> Resident:
        """See that a model is loaded or being loaded; at once if it is (case L1).

        Returns once its files have been judged. Raises what makes a load pointless now.
        """
        self.check_open(also_drained)
        resident = self.find(asked.model_id)
        self._as_asked(resident.model, asked)
        if states.is_wanted(resident.status):
            return resident
        await self._devices.refresh()
        self.check_open(also_drained)
        resident = self.find(asked.model_id)  # the catalogue may be another one now
        model = self._as_asked(resident.model, asked)
        if states.is_wanted(resident.status):
            return resident  # another request was faster
        if resident.status is ModelStatus.DRAINING:
            raise resident.refusal()
        order = self._place(model, asked.devices, resident.asleep)
        if resident.status is ModelStatus.SLEEPING:
            if not self._wakes_as(resident, order, asked.devices):
                await asyncio.shield(self._unloading(resident, resident.refusal()))
                return await self.load(asked, also_drained)
            assert resident.order is not None, "it has been loaded"
            assert resident.work is not None, "somebody watches its sleep"
            order = resident.order
            resident.work.cancel()
        resident.devices, resident.harness, resident.order = order.devices, model.harness, order
        resident.become(ModelStatus.LOADING)
        judged = asyncio.Event()
        resident.work = asyncio.create_task(self._live(resident, order, judged))
        await judged.wait()
        if resident.status is ModelStatus.FAILED and resident.failure is not None:
            raise _as_error(resident.failure)
        return resident

    def _as_asked(self, model: Model, asked: LoadRequest) -> Model:
        """The catalogue's entry with what the request changes. Raises what this neuron cannot do."""
        changes = asked.model_dump(include={"harness", "quant", "tensor_parallel"}, exclude_none=True)
        model = model.model_copy(update=changes)
        if model.harness not in self.harnesses:
            raise InvalidRequest(
                f"model {model.id} needs harness {model.harness!r}; this neuron has {self.harnesses}", param="harness"
            )
        return model

    def _place(self, model: Model, asked: Sequence[int] | None, asleep: Asleep | None) -> Order:
        free = {device.index: device.vram_free_mb for device in self.device_health()}
        held_mb = asleep.host_mb if asleep is not None else 0
        return placement.order(model, asked, self._devices.now, free, self.residents.values(), held_mb)

    def _wakes_as(self, resident: Resident, order: Order, asked: list[int] | None) -> bool:
        """Whether a model that sleeps is what this order wants, where it sleeps, and has room there."""
        slept = resident.order
        assert slept is not None, "it has been loaded"
        if concerns_the_engine(slept.model, order.model) or (asked and {*asked} != {*slept.devices}):
            return False
        try:
            return self._place(order.model, slept.devices, resident.asleep).rank_devices == slept.rank_devices
        except NoCapacity:
            return False

    def device_health(self) -> tuple[DeviceHealth, ...]:
        """The devices as they are, less what loaded models hold and have not written yet: a CPU's pages come then."""
        hardware = self._devices.now
        if hardware.kind != "cpu":
            return hardware.health
        loaded = [each.serving for each in self.residents.values() if each.serving is not None]
        unwritten = sum(devices.unwritten_mb(serving.pids, serving.size.vram_mb) for serving in loaded)
        return tuple(
            device.model_copy(update={"vram_free_mb": max(0, device.vram_free_mb - unwritten)})
            for device in hardware.health
        )

    async def _live(self, resident: Resident, order: Order, judged: asyncio.Event) -> None:
        """One model's whole stay: load, serve until that dies, start again, until unloaded or given up."""
        deaths: list[float] = []
        try:
            while True:
                failure = await self._serve_once(resident, order, judged)
                if resident.status is not ModelStatus.RECOVERING:  # it was a load that failed
                    resident.become(ModelStatus.RECOVERING if deaths else ModelStatus.FAILED, failure)
                if resident.status is ModelStatus.FAILED:
                    return
                deaths.append(time.monotonic())
                resident.deaths[failure.kind] += 1
                if not await self._recover(resident, failure, recovery.next_start_s(deaths, deaths[-1])):
                    return
        finally:
            judged.set()

    async def _serve_once(self, resident: Resident, order: Order, judged: asyncio.Event) -> Failure:
        """Load and serve; returns why that ended, still in the state in which it ended."""
        try:
            if resident.asleep is not None:
                judged.set()
                serving = await self._wake(resident, order, resident.asleep)
            else:
                path = await files.wait_for(resident, order.model, self._harnesses[order.model.harness], judged)
                judged.set()
                serving = await self._bring_up(resident, order, path)
        except LoadFailed as failed:
            logs.error("load_failed", model=resident.model.id, kind=failed.failure.kind, message=failed.failure.message)
            return failed.failure
        death = await asyncio.shield(serving.died)
        failure = Failure(kind=death.kind, message=death.message, rank=death.rank)
        resident.become(ModelStatus.RECOVERING, failure)  # before anything else: it is not loaded any more (case T6)
        await self._end_group(resident, serving, grace_s=0.0)
        return failure

    async def _bring_up(self, resident: Resident, order: Order, path: Path) -> Serving:
        phases = Phases(partial(setattr, resident, "progress"))
        serving = await self._harnesses[order.model.harness].bring_up(order, path, phases.told)
        self._serves(resident, order, serving, phases, woken=False)
        return serving

    async def _wake(self, resident: Resident, order: Order, asleep: Asleep) -> Serving:
        """Have one that sleeps serve again. Raises LoadFailed; it is then ended."""
        phases = Phases(partial(setattr, resident, "progress"))
        assert asleep.serving.sleeps is not None, "it does"
        try:
            serving = await asleep.serving.sleeps.wake(self._settings.load_timeout_s, phases.told)
        except BaseException:
            await self._end_group(resident, asleep.serving, grace_s=0.0)
            raise
        resident.asleep = None
        self._serves(resident, order, serving, phases, woken=True)
        return serving

    def _serves(self, resident: Resident, order: Order, serving: Serving, phases: Phases, woken: bool) -> None:
        serving.prefer(resident.model.sampling)  # not the order's: its entry may have changed
        resident.serving = serving
        resident.loads += 1
        resident.load_s, took = phases.ended()
        resident.become(ModelStatus.LOADED)
        logs.info(
            "model_loaded", model=resident.model.id, seconds=round(resident.load_s, 3), devices=order.rank_devices,
            vram_mb=serving.size.vram_mb, context=serving.size.context, kv_blocks=serving.size.kv_blocks,
            pids=serving.pids, harness=resident.harness, woken=woken, phases=took,
        )  # fmt: skip

    async def _recover(self, resident: Resident, failure: Failure, wait_s: float | None) -> bool:
        """Wait for the next start; False when the model is given up."""
        if wait_s is None:
            resident.become(ModelStatus.FAILED, failure)
            return False
        logs.warning("model_recovering", model=resident.model.id, in_s=wait_s, kind=failure.kind)
        await asyncio.sleep(wait_s)
        resident.become(ModelStatus.LOADING)
        return True

    # ---- unload

    async def unload(
        self, name: str, if_idle: bool = False, level: UnloadLevel | None = None, newcomer: str | None = None
    ) -> Resident:
        """Let running requests end, up to the bound, then end the group. The work goes on if the caller leaves.

        With `level` sleep the group stays where that is possible, and a load wakes it. It goes for `newcomer`.

        Raises ModelBusy with `if_idle`, where it is in use: only the neuron knows that of all gateways (case L6).
        """
        resident = self.find(name)
        if resident.status is ModelStatus.UNLOADED or (level and resident.status is ModelStatus.SLEEPING):
            return resident
        if if_idle and (resident.seats_taken or resident.status in states.BUSY):
            raise ModelBusy(f"model {resident.model.id} is {resident.status}, with {resident.seats_taken} seats taken")
        why = Draining(f"model {resident.model.id} is being unloaded")
        await asyncio.shield(self._unloading(resident, why, level=level, newcomer=newcomer))
        return resident

    def _unloading(
        self,
        resident: Resident,
        why: CortexError,
        failure: Failure | None = None,
        level: UnloadLevel | None = None,
        newcomer: str | None = None,
    ) -> asyncio.Task[None]:
        model_id, task = resident.model.id, self._unloads.get(resident.model.id)
        if level is None:
            self._sleepers.forgo(model_id)
        if task is None or task.done():
            if level is not None:
                self._sleepers.want(model_id, newcomer)
            resident.become(ModelStatus.DRAINING)
            task = self._unloads[model_id] = asyncio.create_task(self._unload(resident, why, failure))
        return task

    async def _unload(self, resident: Resident, why: CortexError, failure: Failure | None) -> None:
        if resident.work is not None:
            resident.work.cancel()
            await asyncio.gather(resident.work, return_exceptions=True)
        try:
            await asyncio.wait_for(resident.vacant.wait(), self._settings.drain_timeout_s)
        except TimeoutError:
            logs.warning("drain_timed_out", model=resident.model.id, in_flight=resident.seats_taken)
        if resident.serving is not None:
            resident.serving.fail_all(why)
            copies = self._devices.now.kind != "cpu"
            fell = await self._sleepers.fall_asleep(resident, resident.serving, self.residents.values(), copies)
            if isinstance(fell, Asleep):
                resident.serving, resident.asleep = None, fell
                resident.become(ModelStatus.SLEEPING)
                resident.work = asyncio.create_task(self._watch_sleep(resident, fell))
                return
            if fell is not None:
                failure = fell
                resident.deaths[fell.kind] += 1
        if (remains := resident.remains) is not None:
            # One that has failed may not hear a word to end itself.
            await self._end_group(resident, remains, grace_s=0.0 if failure is not None else 2.0)
        resident.devices, resident.harness = (), resident.model.harness
        resident.become(ModelStatus.UNLOADED, failure)
        self._let_go(resident)

    async def _watch_sleep(self, resident: Resident, asleep: Asleep) -> None:
        """One that dies in its sleep is unloaded, and not started again: nobody waits for it."""
        death = await asyncio.shield(asleep.serving.died)
        failure = Failure(kind=death.kind, message=f"it died asleep: {death.message}", rank=death.rank)
        resident.deaths[failure.kind] += 1
        resident.work = None  # which is this task: it is not to be cancelled by what it begins
        self._unloading(resident, resident.refusal(), failure)

    async def _end_group(self, resident: Resident, serving: Serving, grace_s: float) -> None:
        """End the processes; free memory before and after is what an operator looks for (case T8)."""
        before = await self._devices.refresh()
        await serving.end(grace_s)
        resident.serving = resident.asleep = None
        after = await self._devices.refresh()
        free = [
            {each.index: each.vram_free_mb for each in snapshot.health if each.index in serving.devices}
            for snapshot in (before, after)
        ]
        logs.info("group_ended", model=resident.model.id, free_before_mb=free[0], free_after_mb=free[1])

    # ---- the neuron as a whole

    def drain(self) -> None:
        """Take nothing new; what runs goes on. A daemon that is started again keeps to it."""
        self._become(NeuronState.DRAINING)

    def undrain(self) -> None:
        """Take requests and loads again."""
        self._become(NeuronState.READY)

    def _become(self, mode: NeuronState) -> None:
        if self.mode is NeuronState.STOPPING:
            raise ShuttingDown("this neuron is shutting down")
        self.mode = mode
        self._drain_mark.set(mode is NeuronState.DRAINING)

    async def stop(self) -> None:
        """Take nothing new, send waiting requests away, let running ones end, end every group (case L8)."""
        self.mode = NeuronState.STOPPING
        why = ShuttingDown("this neuron is shutting down")
        for resident in self.residents.values():
            if resident.serving is not None:
                resident.serving.fail_waiting(why)
        present = [each for each in self.residents.values() if each.status is not ModelStatus.UNLOADED]
        await asyncio.gather(*(self._unloading(each, why) for each in present))


def _as_error(failure: Failure) -> CortexError:
    if failure.kind == UnsupportedArchitecture.code:
        return UnsupportedArchitecture(failure.message)
    return ModelFailed(failure.message)
