"""What the role nvidia_driver decides from its host's answers."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PLUGIN = Path(__file__).parents[3] / "ansible/plugins/filter/nvidia.py"


def load() -> ModuleType:
    """The plugin, as Ansible finds it: by its path."""
    spec = importlib.util.spec_from_file_location("nvidia_filters", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = load()


def pci(**devices: tuple[str, str]) -> str:
    """What grep says of these devices: vendor and class by address."""
    lines = [f"/sys/bus/pci/devices/0000:{name}/vendor:{vendor}" for name, (vendor, _) in devices.items()]
    return "\n".join(lines + [f"/sys/bus/pci/devices/0000:{name}/class:{kind}" for name, (_, kind) in devices.items()])


def test_gpus_and_switches_are_counted_by_vendor_and_class() -> None:
    """A GPU's audio and USB functions are no GPUs; nor are displays and bridges of others."""
    answer = pci(
        a=("0x10de", "0x030000"),  # VGA
        b=("0x10de", "0x040300"),  # its audio
        c=("0x10de", "0x0c0330"),  # its USB
        d=("0x10de", "0x030200"),  # 3D, without a display
        e=("0x10de", "0x068000"),  # an NVSwitch
        f=("0x1002", "0x030000"),
        g=("0x8086", "0x068000"),
    )
    assert filters.nvidia_pci(answer) == {"gpus": 2, "switches": 1}
    assert filters.nvidia_pci("") == {"gpus": 0, "switches": 0}


def test_only_packages_that_are_installed_count() -> None:
    """One that was removed leaves its configuration, and its name, behind."""
    answer = "installed nvidia-driver-cuda 580.95.05-1\nconfig-files nvidia-driver-bin 535.1-1\nnot-installed x\n"
    assert filters.nvidia_installed(answer) == {"nvidia-driver-cuda": "580.95.05-1"}


@pytest.mark.parametrize(
    ("version", "wanted", "same"),
    [
        ("580.95.05-1", "580", True),
        ("580.95.05-1", "580.95.05", True),
        ("580.95.05-0ubuntu1", "580.95.05", True),
        ("3:580.95.05-1.el9", "580", True),
        ("580.95.05", "580.95.05", True),
        ("595.84-0ubuntu0.24.04.1", "595.84", True),
        ("590.44.01-1", "580", False),
        ("580.105.08-1", "580.10", False),
        ("580.65.06-1", "580.95.05", False),
        ("5800.1-1", "580", False),
        ("", "580", False),
    ],
)
def test_a_version_is_of_a_branch_or_of_a_version(version: str, wanted: str, same: bool) -> None:
    """A longer number is another one, a package's revision is not; as apt's pattern has it."""
    assert filters.nvidia_is_of(version, wanted) is same


def test_a_host_without_driver_gets_the_best_of_the_branch() -> None:
    """apt chooses among what the pattern names."""
    packages = ["nvidia-driver-cuda", "nvidia-persistenced"]
    wanted = ["nvidia-driver-cuda=580.*", "nvidia-persistenced=580.*"]
    assert filters.nvidia_specifications(packages, {}, "580") == wanted


def test_nothing_is_upgraded_within_its_branch() -> None:
    """What is installed and of the branch is not asked for again, whatever the repository has by now."""
    assert filters.nvidia_specifications(["nvidia-driver-cuda"], {"nvidia-driver-cuda": "580.65.06-1"}, "580") == []


def test_a_package_that_comes_later_has_the_version_of_those_that_are_there() -> None:
    """The fabric manager refuses to work with a driver of another version than its own."""
    installed = {"nvidia-driver-cuda": "580.65.06-1"}
    asked = filters.nvidia_specifications(["nvidia-driver-cuda", "nvidia-fabricmanager"], installed, "580")
    assert asked == ["nvidia-fabricmanager=580.65.06-1"]


def test_all_packages_change_with_the_version() -> None:
    """None of another version stays, nor is its version taken for the others."""
    packages = ["nvidia-driver-cuda", "nvidia-fabricmanager"]
    installed = {"nvidia-driver-cuda": "580.65.06-1", "nvidia-fabricmanager": "580.65.06-1"}
    asked = filters.nvidia_specifications(packages, installed, "580.95.05")
    assert asked == ["nvidia-driver-cuda=580.95.05-*", "nvidia-fabricmanager=580.95.05-*"]


def test_headers_come_for_this_kernel_and_with_the_next() -> None:
    """A kernel that arrives without its headers would boot into a host without GPUs."""
    installed = ["linux-image-amd64", "linux-image-6.1.0-37-amd64", "linux-base"]
    headers = filters.nvidia_headers("6.1.0-37-amd64", installed)
    assert headers == ["linux-headers-6.1.0-37-amd64", "linux-headers-amd64"]


@pytest.mark.parametrize(("content", "on"), [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\0", False), (b"", False)])
def test_secure_boot_is_read_from_the_firmware(content: bytes, on: bool) -> None:
    """The variable's value stands behind four bytes of attributes."""
    assert filters.nvidia_secure_boot(base64.b64encode(content).decode()) is on


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        ({"installed": "580.95.05", "loaded": "580.95.05", "nouveau": False}, ""),
        ({"installed": "", "loaded": "", "nouveau": False}, ""),
        ({"installed": "", "loaded": "580.95.05", "nouveau": False}, ""),
        (
            {"installed": "580.95.05", "loaded": "580.65.06", "nouveau": False},
            "driver/library version mismatch: the kernel has 580.65.06, and 580.95.05 is installed",
        ),
        (
            {"installed": "580.95.05", "loaded": "", "nouveau": False},
            "the kernel does not load the driver 580.95.05 that is installed",
        ),
        ({"installed": "580.95.05", "loaded": "", "nouveau": True}, "nouveau has the GPU"),
    ],
)
def test_a_reboot_is_for_what_nothing_else_mends(kernel: dict[str, Any], reason: str) -> None:
    """Not for an installation as such, and a driver that was replaced under its module is said to be (case T9)."""
    assert filters.nvidia_reboot_reason(kernel) == reason
