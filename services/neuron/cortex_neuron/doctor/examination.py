"""The examination: host, ranks, handshake, bandwidth, one step after the other.

Owns: the order of the steps, their deadlines, and the end of the ranks. Does not own: the group, which is the daemon's
own (cortex_neuron.group), what its ranks do (doctor.rank), or what a host must have (host). Called by: command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex_neuron.doctor import host, probes
from cortex_neuron.doctor.facts import DriverFacts, Gpu, Report, Step, TorchFacts
from cortex_neuron.doctor.findings import Findings, StepFailed, all_reduce
from cortex_neuron.doctor.options import Order
from cortex_neuron.group.death import GroupFailed
from cortex_neuron.group.group import Group, GroupLimits
from cortex_neuron.hardware import devices as hardware
from cortex_neuron.protocol import frames

DRIVER_PROBE, TORCH_PROBE = "cortex_neuron.doctor.driver_probe", "cortex_neuron.doctor.torch_probe"
DRIVER_TIMEOUT_S = 30.0
START_TIMEOUT_S = 120.0  # to import torch from a cold disk, and to start the ranks, which have imported it
END_GRACE_S, END_TIMEOUT_S = 2.0, 10.0
GPU_SIZES_MB, CPU_SIZES_MB = (1, 16, 256), (1, 16)
_MARGIN_S = 2.0  # the leader knows which rank is late, so it is to be the first to say so


@dataclass(frozen=True, slots=True)
class Ranks:
    """How ranks are made: their module, the folder of their sockets, and what starts the fork server, which imports
    torch while the host is looked at."""

    module: str
    folder: Path
    start_fork_server: Callable[[], None]


async def examine(order: Order, ranks: Ranks, tell: Callable[[Step], None]) -> Report:
    """Take every step until one fails. No rank is left behind."""
    findings = Findings(tell)
    try:
        await look_at_host(order, ranks, findings)
        await try_ranks(order, ranks, findings)
    except StepFailed as failed:
        return findings.report(failed.failure)
    return findings.report(None)


async def look_at_host(order: Order, ranks: Ranks, findings: Findings) -> None:
    """Driver, devices, torch: all three are told of, whichever of them is wrong. Raises StepFailed."""
    async with asyncio.TaskGroup() as asking:
        driver_asked = asking.create_task(_driver())
        torch_asked = asking.create_task(_torch())
        cpu = await asyncio.to_thread(_cpu)
        findings.driver = await driver_asked
        on_driver = host.judge_driver(order, findings.driver)
        findings.judged(on_driver)
        findings.devices, on_devices = host.choose(order, findings.driver, cpu)
        findings.judged(on_devices)
        if host.failure_of([on_driver, on_devices]) is None:
            ranks.start_fork_server()
        findings.torch = await torch_asked
    on_torch = host.judge_torch(findings.torch, host.wants_gpus(order, findings.driver))
    findings.judged(on_torch)
    failure = host.failure_of([on_driver, on_devices, on_torch])
    if failure is not None:
        raise StepFailed(failure)


async def _driver() -> DriverFacts:
    try:
        return await probes.ask(DRIVER_PROBE, DriverFacts, DRIVER_TIMEOUT_S)
    except probes.Unanswered as silent:
        return DriverFacts(present=True, problem=f"the driver cannot be asked: {silent}; reboot the host")


async def _torch() -> TorchFacts:
    try:
        return await probes.ask(TORCH_PROBE, TorchFacts, START_TIMEOUT_S)
    except probes.Unanswered as silent:
        return TorchFacts(problem=str(silent))


def _cpu() -> Gpu:
    seen = hardware.read("cpu")
    return Gpu(index=0, name=seen.devices[0].name, free_mb=seen.health[0].vram_free_mb)


async def try_ranks(order: Order, ranks: Ranks, findings: Findings) -> None:
    """Start the ranks and have them compute together. Raises StepFailed."""
    limits = GroupLimits(START_TIMEOUT_S, order.timeout_s, ranks.module, order.timeout_s)
    num_ranks = len(findings.devices)
    findings.begin("ranks")
    try:
        async with asyncio.timeout(START_TIMEOUT_S + END_TIMEOUT_S):
            group = await Group.start(ranks.folder / "g1.ipc", limits, num_ranks)
        findings.done("1 process has said hello" if num_ranks == 1 else f"{num_ranks} processes have said hello")
        await _measure_and_end(group, order, findings)
    except GroupFailed as failed:
        raise findings.failed(failed.death.kind, failed.death.message, failed.death.rank) from failed
    except TimeoutError as late:
        raise findings.failed("device_lost", "a rank cannot be ended: it hangs in the kernel", None) from late


async def _measure_and_end(group: Group, order: Order, findings: Findings) -> None:
    grace_s = 0.0
    try:
        await _measure(group, order, findings)
        grace_s = END_GRACE_S
    finally:
        async with asyncio.timeout(END_TIMEOUT_S):
            await group.end(grace_s)


async def _measure(group: Group, order: Order, findings: Findings) -> None:
    """The handshake comes with the first size. Raises GroupFailed."""
    devices = [each.device for each in findings.devices]
    sizes_mb = order.sizes_mb or (CPU_SIZES_MB if devices[0] == "cpu" else GPU_SIZES_MB)
    findings.begin("handshake")
    for size_mb in sizes_mb if len(devices) > 1 else sizes_mb[:1]:
        request = frames.Measure(
            devices=devices, num_bytes=size_mb << 20, init_timeout_s=order.timeout_s, timeout_s=order.timeout_s
        )
        answer = await group.measure(request, 3 * order.timeout_s + _MARGIN_S, _following(findings))
        _tell_bandwidth(size_mb, answer.seconds, findings)
        findings.begin("all-reduce")


def _following(findings: Findings) -> Callable[[frames.LoadProgress], None]:
    """The ranks say which step they have come to."""

    def follow(progress: frames.LoadProgress) -> None:
        if progress.phase == "sanity":
            findings.done("the ranks have found together")
            findings.begin("sanity")
        elif progress.phase == "all_reduce":
            findings.done(f"every rank has observed {len(findings.devices)}")
            findings.begin("all-reduce")

    return follow


def _tell_bandwidth(size_mb: int, samples_s: Sequence[float], findings: Findings) -> None:
    num_ranks = len(findings.devices)
    if num_ranks == 1:
        findings.done("one rank has nobody to exchange with", "skipped")
        return
    found = all_reduce(size_mb, samples_s, num_ranks)
    findings.all_reduce.append(found)
    findings.done(
        f"{size_mb} MB: {found.algorithm_gb_s:.3g} GB/s algorithm, {found.bus_gb_s:.3g} GB/s bus, "
        f"median of {found.num_samples}, {found.median_ms:.3g} ms"
    )
