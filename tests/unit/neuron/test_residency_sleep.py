"""Residency and its sleepers, over a harness that does as it is told: who sleeps, wakes or ends beside whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model, SamplingName, Task
from cortex_contracts.wire.errors import CortexError, Draining
from cortex_contracts.wire.neuron import Failure, LoadRequest, ModelRow, ModelStatus, Progress
from cortex_neuron.group.death import Death
from cortex_neuron.group.group import GroupFigures
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.residency.drain_mark import DrainMark
from cortex_neuron.residency.harness import LoadFailed, Order, Size, SleepFailed
from cortex_neuron.residency.residency import Residency

LOADED, SLEEPING, UNLOADED = ModelStatus.LOADED, ModelStatus.SLEEPING, ModelStatus.UNLOADED
SILENT = Failure(kind="ping_timeout", message="rank 1 has been silent for 2 s", rank=1)


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Scripted:
    """A loaded model. What an event stands for is done once that is set."""

    order: Order
    weights_mb: int
    falls: asyncio.Event = field(default_factory=_open)
    wakes: asyncio.Event = field(default_factory=_open)
    ends: asyncio.Event = field(default_factory=_open)
    fails: Failure | None = None  # what falling asleep and waking fail of
    died: asyncio.Future[Death] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    graces: list[float] = field(default_factory=list)  # each end's
    pids: list[int] = field(default_factory=list)
    figures: GroupFigures = field(default_factory=GroupFigures)
    task: Task = "embed"

    @property
    def devices(self) -> tuple[int, ...]:
        return self.order.devices

    @property
    def size(self) -> Size:
        return Size(vram_mb=1, context=512, kv_blocks=7, weights_mb=self.weights_mb)

    @property
    def sleeps(self) -> Scripted:
        return self

    async def sleep(self, timeout_s: float) -> int:
        await self.falls.wait()
        if self.fails is not None:
            raise SleepFailed(self.fails)
        return self.weights_mb

    async def wake(self, timeout_s: float, on_progress: Callable[[Progress], None]) -> Scripted:
        await self.wakes.wait()
        if self.fails is not None:
            raise LoadFailed(self.fails)
        return self

    def prefer(self, sampling: Mapping[SamplingName, float]) -> None: ...
    def fail_waiting(self, failure: CortexError) -> int:
        return 0

    def fail_all(self, failure: CortexError) -> None: ...
    async def end(self, grace_s: float) -> None:
        self.graces.append(grace_s)
        await self.ends.wait()


class Host:
    """A neuron's residency with room for 10 MB of sleepers. A model's name ends with the MB of its weights."""

    present = True

    def __init__(self, folder: Path, *names: str) -> None:
        self.started: dict[str, Scripted] = {}  # the last of each model
        settings = NeuronSection(name="n", sleep_host_memory_mb=10)
        models = [Model(id=name, source="-", vram_mb=1) for name in names]
        self.residency = Residency(
            settings, models, DeviceWatch("cpu"), {"torch": self}, DrainMark(str(folder))
        )  # fmt: skip

    async def check(self, model: Model) -> Path:
        return Path("-")

    async def bring_up(self, order: Order, path: Path, on_progress: Callable[[Progress], None]) -> Scripted:
        made = self.started[order.model.id] = Scripted(order, int(order.model.id[1:]))
        return made

    async def load(self, name: str) -> Scripted:
        """Have it loaded."""
        await self.residency.load(LoadRequest(model_id=name))
        await self.until(name, LOADED)
        return self.started[name]

    async def asleep(self, *names: str) -> None:
        """Have them loaded and asleep, one after the other."""
        for name in names:
            await self.load(name)
            assert (await self.residency.unload(name, level="sleep")).status is SLEEPING

    async def until(self, name: str, status: ModelStatus) -> None:
        resident = self.residency.residents[name]
        async with asyncio.timeout(5):
            await resident.left({*ModelStatus} - {status})

    def row(self, name: str) -> ModelRow:
        return self.residency.find(name).row()

    def statuses(self) -> dict[str, ModelStatus]:
        return {name: each.status for name, each in self.residency.residents.items()}


HostOf = Callable[..., Host]


@pytest.fixture
async def host_of(tmp_path: Path) -> AsyncIterator[HostOf]:
    """Makes one of models; at the end each is stopped."""
    made: list[Host] = []

    def host(*names: str) -> Host:
        made.append(Host(tmp_path, *names))
        return made[-1]

    yield host
    for each in made:
        await each.residency.stop()


async def test_one_that_is_woken_while_others_make_room_is_not_unloaded(host_of: HostOf) -> None:
    """It was to go next for a newcomer, and is in use by then: what it had of the host's memory is free as well."""
    host = host_of("a4", "b4", "c8")
    await host.asleep("a4", "b4")
    newcomer = await host.load("c8")
    host.started["a4"].ends.clear()
    falling = asyncio.create_task(host.residency.unload("c8", level="sleep"))
    await host.until("a4", ModelStatus.DRAINING)
    await host.load("b4")
    host.started["a4"].ends.set()
    async with asyncio.timeout(5):
        await falling
    assert host.statuses() == {"a4": UNLOADED, "b4": LOADED, "c8": SLEEPING}
    assert (host.started["b4"].graces, newcomer.graces) == ([], [])


async def test_one_that_is_being_woken_keeps_its_memory_and_its_requests(host_of: HostOf) -> None:
    """Somebody waits for it: the newcomer, which has no room then, is unloaded."""
    host = host_of("b4", "c8")
    await host.asleep("b4")
    await host.load("c8")
    host.started["b4"].wakes.clear()
    await host.residency.load(LoadRequest(model_id="b4"))
    assert (await host.residency.unload("c8", level="sleep")).status is UNLOADED
    assert host.row("b4").status is ModelStatus.LOADING
    host.started["b4"].wakes.set()
    await host.until("b4", LOADED)
    assert host.started["b4"].graces == []


async def test_the_model_that_it_goes_for_is_not_unloaded_for_its_sleep(host_of: HostOf) -> None:
    """Who takes turns is back soonest the one that has slept longest: it is about to be woken, and another goes."""
    host = host_of("a4", "b4", "c4", "d7")
    await host.asleep("a4", "b4")
    for name in ("c4", "d7"):
        await host.load(name)
    await host.residency.unload("c4", level="sleep", newcomer="a4")
    assert host.statuses() == {"a4": SLEEPING, "b4": UNLOADED, "c4": SLEEPING, "d7": LOADED}
    await host.residency.unload("d7", level="sleep", newcomer="a4")
    assert host.statuses() == {"a4": SLEEPING, "b4": UNLOADED, "c4": SLEEPING, "d7": UNLOADED}


async def test_one_that_ends_already_goes_before_another_that_sleeps(host_of: HostOf) -> None:
    """An operator's unload of the younger is under way: nobody is unloaded beside it."""
    host = host_of("a4", "b4", "c4")
    await host.asleep("a4", "b4")
    await host.load("c4")
    host.started["b4"].ends.clear()
    leaving = asyncio.create_task(host.residency.unload("b4"))
    await host.until("b4", ModelStatus.DRAINING)
    falling = asyncio.create_task(host.residency.unload("c4", level="sleep"))
    await host.until("c4", ModelStatus.DRAINING)
    host.started["b4"].ends.set()
    async with asyncio.timeout(5):
        await asyncio.gather(leaving, falling)
    assert host.statuses() == {"a4": SLEEPING, "b4": UNLOADED, "c4": SLEEPING}


async def test_one_that_does_not_fall_asleep_is_unloaded_with_the_reason_and_counted(host_of: HostOf) -> None:
    """Whoever looks for the model finds why it is gone; a process that hangs is not asked to end first."""
    host = host_of("a4")
    (await host.load("a4")).fails = SILENT
    assert (await host.residency.unload("a4", level="sleep")).status is UNLOADED
    failure = host.row("a4").failure
    assert failure == Failure(
        kind="ping_timeout", message="it did not fall asleep: rank 1 has been silent for 2 s", rank=1
    )
    assert host.residency.find("a4").deaths == {"ping_timeout": 1}
    assert host.started["a4"].graces == [0.0]
    await host.load("a4")
    assert host.row("a4").failure is None


async def test_one_that_has_no_room_is_unloaded_without_a_reason(host_of: HostOf) -> None:
    """That is no fault: it ends as after any unload, with time to do so."""
    host = host_of("a11")
    await host.load("a11")
    assert (await host.residency.unload("a11", level="sleep")).status is UNLOADED
    assert (host.row("a11").failure, host.residency.find("a11").deaths) == (None, {})
    assert host.started["a11"].graces == [2.0]


async def test_one_that_dies_asleep_is_ended_at_once_and_says_why(host_of: HostOf) -> None:
    """Meanwhile a load is told to come again, and the one after that is from the files."""
    host = host_of("a4")
    await host.asleep("a4")
    sleeper = host.started["a4"]
    sleeper.ends.clear()
    sleeper.died.set_result(Death("rank_died", "rank 0 was killed by signal 9 (SIGKILL)"))
    await host.until("a4", ModelStatus.DRAINING)
    with pytest.raises(Draining):
        await host.residency.load(LoadRequest(model_id="a4"))
    sleeper.ends.set()
    await host.until("a4", UNLOADED)
    failure = host.row("a4").failure
    assert failure is not None
    assert failure.message == "it died asleep: rank 0 was killed by signal 9 (SIGKILL)"
    assert sleeper.graces == [0.0]
    assert await host.load("a4") is not sleeper


async def test_one_that_does_not_wake_has_failed_and_the_next_load_is_from_the_files(host_of: HostOf) -> None:
    """Its host memory is given back with its processes."""
    host = host_of("a4")
    await host.asleep("a4")
    sleeper = host.started["a4"]
    sleeper.fails = SILENT
    await host.residency.load(LoadRequest(model_id="a4"))
    await host.until("a4", ModelStatus.FAILED)
    assert (host.row("a4").failure, host.row("a4").host_memory_mb, sleeper.graces) == (SILENT, 0, [0.0])
    assert await host.load("a4") is not sleeper


async def test_an_unload_that_comes_while_a_model_wakes_ends_it(host_of: HostOf) -> None:
    """Whoever waits for it is told so by its state; no process is left."""
    host = host_of("a4")
    await host.asleep("a4")
    host.started["a4"].wakes.clear()
    await host.residency.load(LoadRequest(model_id="a4"))
    assert (await host.residency.unload("a4")).status is UNLOADED
    assert host.started["a4"].graces == [0.0]


async def test_an_entry_that_changes_while_a_model_falls_asleep_ends_it(host_of: HostOf) -> None:
    """What would sleep was started with the old entry. What is no affair of the engine's changes nothing."""
    host = host_of("a4", "b4")
    statuses = {}
    for name, change in (("a4", {"context": 256}), ("b4", {"priority": 1})):
        (await host.load(name)).falls.clear()
        falling = asyncio.create_task(host.residency.unload(name, level="sleep"))
        await host.until(name, ModelStatus.DRAINING)
        host.residency.take(Model(id=name, source="-", vram_mb=1, **change))
        host.started[name].falls.set()
        statuses[name] = (await falling).status
    assert statuses == {"a4": UNLOADED, "b4": SLEEPING}


async def test_what_a_model_is_for_is_known_while_it_sleeps(host_of: HostOf) -> None:
    """Its context and task were found in its files: clients see them in /v1/models as long as the neuron knows them."""
    host = host_of("a4")
    await host.asleep("a4")
    row = host.row("a4")
    assert (row.context, row.task, row.vram_used_mb, row.host_memory_mb) == (512, "embed", 0, 4)
    assert (await host.residency.unload("a4")).row().task is None
