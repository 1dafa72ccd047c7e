"""NVIDIA's management library: what it says of the driver and its devices.

Owns: every NVML call, each of which may block for seconds; and the words for its failures (case T9). Does not own:
which devices are used. Called by: devices.py, from a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

from cortex_contracts.wire.neuron import DeviceHealth, DeviceSpec

_MIB = 1024 * 1024
_NO_DRIVER = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
}


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver as it is now. No driver at all is no problem: such a host computes on its CPU."""

    present: bool
    version: str | None = None
    cuda_version: str | None = None
    problem: str | None = None
    devices: tuple[DeviceSpec, ...] = ()
    health: tuple[DeviceHealth, ...] = ()


def read_driver() -> Driver:
    """Everything NVML knows, now. Never raises: what fails is in `problem`."""
    try:
        with _session():
            return _read()
    except pynvml.NVMLError as failure:
        if failure.value in _NO_DRIVER:
            return Driver(present=False)
        return Driver(present=True, problem=_words(failure))


def _read() -> Driver:
    specs: list[DeviceSpec] = []
    health: list[DeviceHealth] = []
    problems: list[str] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            specs.append(_spec(device, index))
            health.append(_health(device, index))
        except pynvml.NVMLError as failure:
            del specs[len(health) :]
            problems.append(f"GPU {index}: {_words(failure)}")
    return Driver(
        present=True,
        version=pynvml.nvmlSystemGetDriverVersion(),
        cuda_version=_cuda_version(pynvml.nvmlSystemGetCudaDriverVersion_v2()),
        problem="; ".join(problems) or None,
        devices=tuple(specs),
        health=tuple(health),
    )


def _spec(device: Any, index: int) -> DeviceSpec:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    return DeviceSpec(
        index=index,
        name=pynvml.nvmlDeviceGetName(device),
        vram_total_mb=pynvml.nvmlDeviceGetMemoryInfo(device).total // _MIB,
        compute_capability=f"{major}.{minor}",
    )


def _health(device: Any, index: int) -> DeviceHealth:
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    return DeviceHealth(
        index=index,
        vram_used_mb=memory.used // _MIB,
        vram_free_mb=memory.free // _MIB,
        utilization_pct=_if_supported(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)),
        temp_c=_if_supported(lambda: int(pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU))),
    )


def _if_supported(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except pynvml.NVMLError_NotSupported:  # consumer cards and MIG slices do not tell everything
        return None


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _words(failure: pynvml.NVMLError) -> str:
    if failure.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "driver/library version mismatch: reboot"
    return str(failure)


@contextmanager
def _session() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()
