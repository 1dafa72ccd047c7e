"""Discovery and health through NVIDIA's library, of which a fake one is compiled here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_nvml
import pytest

PROBE = """
import dataclasses, json, sys
from cortex_neuron.hardware import devices
choice = json.loads(sys.argv[1])
seen = devices.read(tuple(choice) if isinstance(choice, list) else choice)
print(json.dumps({
    "hardware": dataclasses.asdict(seen) | {
        "devices": [each.model_dump() for each in seen.devices], "health": [each.model_dump() for each in seen.health]
    },
    "discovery": devices.discovery(seen, "1", ["torch"]).model_dump(),
}))
"""


@pytest.fixture(scope="session")
def nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake library."""
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


def _probe(folder: Path | None, choice: Any = "all", **settings: int) -> dict[str, Any]:
    environment = fake_nvml.environment(folder, **settings)
    command = [sys.executable, "-c", PROBE, json.dumps(choice)]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30)
    seen: dict[str, Any] = json.loads(answer.stdout)
    return seen


def test_gpus_are_discovered_as_they_are(nvml_folder: Path) -> None:
    """Names, memory, compute capability, versions of driver and CUDA, and what they are doing."""
    seen = _probe(nvml_folder, GPUS=2)
    discovery = seen["discovery"]
    assert (discovery["device_kind"], discovery["driver_version"], discovery["cuda_version"]) == (
        "cuda",
        "580.95.05",
        "13.1",
    )
    assert discovery["driver_problem"] is None
    assert discovery["devices"][0] == {
        "index": 0, "name": "NVIDIA GeForce RTX 3060", "vram_total_mb": 12288, "compute_capability": "8.6",
    }  # fmt: skip
    assert seen["hardware"]["health"][1] == {
        "index": 1, "vram_used_mb": 2048, "vram_free_mb": 10240, "utilization_pct": 37, "temp_c": 41,
    }  # fmt: skip


def test_a_card_that_does_not_tell_its_temperature_is_served_all_the_same(nvml_folder: Path) -> None:
    """Consumer cards and MIG slices do not support every question."""
    health = _probe(nvml_folder, GPUS=1, SHY=1)["hardware"]["health"][0]
    assert (health["utilization_pct"], health["temp_c"], health["vram_free_mb"]) == (None, None, 11264)


def test_a_driver_that_was_updated_without_a_reboot_is_called_that(nvml_folder: Path) -> None:
    """And such a host is no CPU host: its GPUs come back with the reboot (case T9)."""
    discovery = _probe(nvml_folder, INIT=18)["discovery"]
    assert discovery["driver_problem"] == "driver/library version mismatch: reboot"
    assert discovery["device_kind"] == "cuda"
    assert discovery["devices"] == []


@pytest.mark.parametrize("settings", [{"INIT": 9}, {"INIT": 12}, None])
def test_a_host_without_driver_is_a_cpu_host(nvml_folder: Path, settings: dict[str, int] | None) -> None:
    """Not an error: its one device is the CPU, its memory the host's (case T9)."""
    seen = _probe(nvml_folder, **settings) if settings else _probe(None)
    discovery = seen["discovery"]
    assert (discovery["device_kind"], discovery["driver_problem"]) == ("cpu", None)
    assert [device["index"] for device in discovery["devices"]] == [0]
    assert discovery["devices"][0]["vram_total_mb"] > 0
    assert seen["hardware"]["health"][0]["vram_free_mb"] > 0


def test_a_lost_gpu_is_named_and_the_others_stay(nvml_folder: Path) -> None:
    """One card that fell off the bus does not hide the rest."""
    discovery = _probe(nvml_folder, GPUS=3, LOST=1)["discovery"]
    assert discovery["driver_problem"] == "GPU 1: GPU is lost"
    assert [device["index"] for device in discovery["devices"]] == [0, 2]


def test_only_the_devices_that_the_inventory_names_are_used(nvml_folder: Path) -> None:
    """And one that is not there is said so."""
    assert [each["index"] for each in _probe(nvml_folder, [1], GPUS=3)["discovery"]["devices"]] == [1]
    problem = _probe(nvml_folder, [0, 4], GPUS=2)["discovery"]["driver_problem"]
    assert problem == "neuron.devices asks for GPUs [0, 4], the driver has [0, 1]"


def test_gpus_that_are_asked_for_on_a_host_without_driver_are_a_problem(nvml_folder: Path) -> None:
    """The CPU is no silent replacement."""
    discovery = _probe(nvml_folder, [0], INIT=9)["discovery"]
    assert "no NVIDIA driver" in discovery["driver_problem"]
    assert discovery["device_kind"] == "cuda"
    assert _probe(nvml_folder, "cpu", GPUS=2)["discovery"]["device_kind"] == "cpu"
