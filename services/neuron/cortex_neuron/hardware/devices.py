"""The devices this neuron may use, as they are and as they are doing.

Owns: the choice between GPUs and the CPU, and a snapshot that a background task renews, so that no request waits
for NVML (case T7). Called by: api (answers), residency (placement).
"""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cortex_contracts.inventory.fleet import DeviceChoice
from cortex_contracts.wire.neuron import DeviceHealth, DeviceSpec, Discovery
from cortex_neuron.hardware import nvml
from cortex_neuron.hardware.nvml import Driver
from cortex_serving import logs

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Hardware:
    """A snapshot of the chosen devices. `problem` is why loads cannot work now, in words."""

    kind: str  # "cuda" | "cpu"
    devices: tuple[DeviceSpec, ...]
    health: tuple[DeviceHealth, ...]
    driver_version: str | None = None
    cuda_version: str | None = None
    problem: str | None = None


def choose(choice: DeviceChoice, driver: Driver, cpu: tuple[DeviceSpec, DeviceHealth]) -> Hardware:
    """What `devices` of neuron.toml means on this host."""
    if choice == "cpu" or (choice == "all" and not driver.present):
        return Hardware("cpu", (cpu[0],), (cpu[1],))
    wanted = {spec.index for spec in driver.devices} if choice == "all" else set(choice)
    found = {spec.index for spec in driver.devices}
    problem = driver.problem
    if not driver.present:
        problem = f"no NVIDIA driver, but neuron.devices asks for GPUs {sorted(wanted)}"
    elif problem is None and (wanted - found or not wanted):
        problem = f"neuron.devices asks for GPUs {sorted(wanted)}, the driver has {sorted(found)}"
    return Hardware(
        kind="cuda",
        devices=tuple(spec for spec in driver.devices if spec.index in wanted),
        health=tuple(health for health in driver.health if health.index in wanted),
        driver_version=driver.version,
        cuda_version=driver.cuda_version,
        problem=problem,
    )


def read(choice: DeviceChoice) -> Hardware:
    """Look at the hardware now; may take seconds."""
    driver = Driver(present=False) if choice == "cpu" else nvml.read_driver()
    return choose(choice, driver, _read_cpu())


class DeviceWatch:
    """The newest snapshot, renewed every `interval_s` in a thread of its own."""

    def __init__(self, choice: DeviceChoice, interval_s: float = 1.0) -> None:
        self._choice = choice
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self.now = Hardware("cpu", (), ())

    async def start(self) -> None:
        """Take the first snapshot and go on."""
        self.now = await self.refresh()
        self._task = asyncio.create_task(self._renew())

    async def refresh(self) -> Hardware:
        """A snapshot of this moment."""
        snapshot = await asyncio.to_thread(read, self._choice)
        if snapshot.problem != self.now.problem:
            logs.warning("devices_changed", problem=snapshot.problem)
        self.now = snapshot
        return snapshot

    async def stop(self) -> None:
        """End the renewal."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.refresh()


def unwritten_mb(pids: Sequence[int], held_mb: int) -> int:
    """How much of what these processes hold on the CPU they have yet to write; nothing once one is gone."""
    try:
        written = [psutil.Process(pid).memory_info() for pid in pids]
    except psutil.NoSuchProcess:
        return 0
    if not written:
        return 0
    own: int = sum(each.rss - getattr(each, "shared", 0) for each in written)
    return max(0, held_mb - own // _MIB)


def host_free_mb() -> int:
    """Host memory that there is now for whoever asks."""
    available: int = psutil.virtual_memory().available
    return available // _MIB


def discovery(hardware: Hardware, version: str, harnesses: list[str], sleep_host_memory_mb: int = 0) -> Discovery:
    """GET /discovery"""
    return Discovery(
        hostname=socket.gethostname(),
        os=platform.system(),
        kernel=platform.release(),
        cuda_version=hardware.cuda_version,
        driver_version=hardware.driver_version,
        driver_problem=hardware.problem,
        device_kind=hardware.kind,
        devices=list(hardware.devices),
        harnesses=harnesses,
        version=version,
        sleep_host_memory_mb=sleep_host_memory_mb,
    )


def _read_cpu() -> tuple[DeviceSpec, DeviceHealth]:
    memory = psutil.virtual_memory()
    spec = DeviceSpec(index=0, name=_cpu_name(), vram_total_mb=memory.total // _MIB)
    health = DeviceHealth(
        index=0,
        vram_used_mb=(memory.total - memory.available) // _MIB,
        vram_free_mb=memory.available // _MIB,
        utilization_pct=round(psutil.cpu_percent()),
    )
    return spec, health


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
