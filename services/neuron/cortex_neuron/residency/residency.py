"""Which models are on this neuron: loading, unloading, recovering, and whether anything new is taken.

Owns: the set of residents, single flight per model (case L1), and one task a model that loads it, watches it
and starts it again. Does not own: the steps of a load (loading.py) or requests (inference). Called by: api, daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import (
    CortexError,
    CudaUnavailable,
    Draining,
    InvalidRequest,
    ModelBusy,
    ModelFailed,
    ModelNotFound,
    ShuttingDown,
    UnsupportedArchitecture,
)
from cortex_contracts.wire.neuron import DeviceHealth, Failure, LoadRequest, ModelStatus, NeuronState, Progress
from cortex_neuron.hardware import devices
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.residency import placement, recovery, sources, states
from cortex_neuron.residency.drain_mark import DrainMark
from cortex_neuron.residency.harness import Harness, LoadFailed, Order, Serving
from cortex_neuron.residency.resident import Resident
from cortex_neuron.residency.sources import SourceMissing, SourceUnreachable
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
        order = self._place(model, asked.devices)
        resident.devices, resident.harness = order.devices, model.harness
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

    def _place(self, model: Model, asked: list[int] | None) -> Order:
        hardware = self._devices.now
        if hardware.problem is not None:
            raise CudaUnavailable(hardware.problem)
        reserved: Counter[int] = Counter()
        for other in self.residents.values():
            if other.devices and other.status in states.BUSY:
                for index in other.devices:
                    reserved[index] += -(-other.model.host_mb // len(other.devices))
        free = {device.index: device.vram_free_mb for device in self.device_health()}
        ranks = model.span
        # Ranks on a CPU are processes that share the one memory.
        span = 1 if hardware.kind == "cpu" else ranks
        need_mb = max(-(-model.host_mb // span), model.min_device_vram_mb)
        chosen = placement.choose(need_mb, free, reserved, asked, span)
        names = ("cpu",) * ranks if hardware.kind == "cpu" else tuple(f"cuda:{index}" for index in chosen)
        return Order(model, chosen, names, tuple(each for each in hardware.devices if each.index in chosen))

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
            path = await self._files(resident, order.model, judged)
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

    async def _files(self, resident: Resident, model: Model, judged: asyncio.Event) -> Path:
        attempts, harness = 0, self._harnesses[model.harness]
        while (path := await harness.check(model)) is None:
            if resident.status is not ModelStatus.PENDING:
                resident.become(ModelStatus.PENDING)
            judged.set()
            try:
                for source in model.sources:
                    await _fetch(source)
            except SourceUnreachable as unreachable:
                attempts += 1
                resident.failure = Failure(kind="source_unreachable", message=str(unreachable))
                logs.warning("source_unreachable", model=model.id, attempts=attempts, message=str(unreachable))
                await asyncio.sleep(recovery.next_fetch_s(attempts))
        if resident.status is ModelStatus.PENDING:
            resident.become(ModelStatus.LOADING)
        return path

    async def _bring_up(self, resident: Resident, order: Order, path: Path) -> Serving:
        began = time.monotonic()

        def on_progress(progress: Progress) -> None:
            resident.progress = progress

        serving = await self._harnesses[order.model.harness].bring_up(order, path, on_progress)
        serving.prefer(resident.model.sampling)  # not the order's: its entry may have changed
        resident.serving = serving
        resident.loads += 1
        resident.load_s = time.monotonic() - began
        resident.become(ModelStatus.LOADED)
        logs.info(
            "model_loaded", model=resident.model.id, seconds=round(resident.load_s, 3), devices=order.rank_devices,
            vram_mb=serving.size.vram_mb, context=serving.size.context, kv_blocks=serving.size.kv_blocks,
            pids=serving.pids, harness=resident.harness,
        )  # fmt: skip
        return serving

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

    async def unload(self, name: str, if_idle: bool = False) -> Resident:
        """Let running requests end, up to the bound, then end the group. The work goes on if the caller leaves.

        Raises ModelBusy with `if_idle`, where it is in use: only the neuron knows that of all gateways (case L6).
        """
        resident = self.find(name)
        if resident.status is ModelStatus.UNLOADED:
            return resident
        if if_idle and (resident.seats_taken or resident.status in states.BUSY):
            raise ModelBusy(f"model {resident.model.id} is {resident.status}, with {resident.seats_taken} seats taken")
        why = Draining(f"model {resident.model.id} is being unloaded")
        await asyncio.shield(self._unloading(resident, why))
        return resident

    def _unloading(self, resident: Resident, why: CortexError) -> asyncio.Task[None]:
        model_id = resident.model.id
        if model_id not in self._unloads:
            resident.become(ModelStatus.DRAINING)
            self._unloads[model_id] = asyncio.create_task(self._unload(resident, why))
            self._unloads[model_id].add_done_callback(lambda _: self._unloads.pop(model_id))
        return self._unloads[model_id]

    async def _unload(self, resident: Resident, why: CortexError) -> None:
        if resident.work is not None:
            resident.work.cancel()
            await asyncio.gather(resident.work, return_exceptions=True)
        try:
            await asyncio.wait_for(resident.vacant.wait(), self._settings.drain_timeout_s)
        except TimeoutError:
            logs.warning("drain_timed_out", model=resident.model.id, in_flight=resident.seats_taken)
        if resident.serving is not None:
            resident.serving.fail_all(why)
            await self._end_group(resident, resident.serving)
        resident.devices, resident.harness = (), resident.model.harness
        resident.become(ModelStatus.UNLOADED)
        self._let_go(resident)

    async def _end_group(self, resident: Resident, serving: Serving, grace_s: float = 2.0) -> None:
        """End the processes; free memory before and after is what an operator looks for (case T8)."""
        before = await self._devices.refresh()
        await serving.end(grace_s)
        resident.serving = None
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


async def _fetch(source: str) -> None:
    """Fetch a repository, if it is one. Raises LoadFailed, or SourceUnreachable where trying again may help."""
    try:
        if not sources.is_local(source):
            await asyncio.to_thread(sources.fetch, source)
    except SourceMissing as failure:
        raise LoadFailed(Failure(kind="source_invalid", message=str(failure))) from failure


def _as_error(failure: Failure) -> CortexError:
    if failure.kind == UnsupportedArchitecture.code:
        return UnsupportedArchitecture(failure.message)
    return ModelFailed(failure.message)
