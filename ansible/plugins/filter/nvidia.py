"""What the role nvidia_driver decides from its host's answers: what to install, in which version, whether to reboot.

Owns: reading the host's answers (PCI devices, packages, Secure Boot) and these decisions; pure. Does not own: asking
the host, and doing what is decided (roles/nvidia_driver/tasks).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # the class of VGA, 3D and other display controllers
_BRIDGE = "0x0680"  # the class of an NVSwitch; GPUs have audio and USB functions beside them, which count for neither


def nvidia_pci(answer: str) -> dict[str, int]:
    """How many GPUs and NVSwitches there are, from lines `<address>/vendor:0x10de` and `<address>/class:0x030000`."""
    devices: dict[str, dict[str, str]] = {}
    for line in answer.splitlines():
        path, _, value = line.rpartition(":")
        address, _, key = path.rpartition("/")
        devices.setdefault(address, {})[key] = value
    kinds = [device.get("class", "") for device in devices.values() if device.get("vendor") == _NVIDIA]
    return {
        "gpus": sum(kind.startswith(_DISPLAY) for kind in kinds),
        "switches": sum(kind.startswith(_BRIDGE) for kind in kinds),
    }


def nvidia_installed(answer: str) -> dict[str, str]:
    """Version by name of what is installed, from lines `<state> <name> <version>` of dpkg-query or rpm."""
    entries = [line.split() for line in answer.splitlines()]
    return {entry[1]: entry[2] for entry in entries if len(entry) == 3 and entry[0] == "installed"}


def nvidia_is_of(version: str, wanted: str) -> bool:
    """Whether a version, such as 580.95.05-1, is `wanted`: a branch, such as 580, or a version without its package's
    revision."""
    stem = version.rpartition(":")[2]
    return stem == wanted or stem.startswith(nvidia_pattern(wanted)[:-1])


def nvidia_pattern(wanted: str) -> str:
    """The versions of packages that are `wanted`, as apt writes them; of patterns it knows only those that end in *."""
    return f"{wanted}-*" if "." in wanted else f"{wanted}.*"


def nvidia_lacking(packages: Iterable[str], installed: Mapping[str, str], wanted: str) -> list[str]:
    """The packages that are not there, or in another version than is wanted."""
    return [name for name in packages if not nvidia_is_of(installed.get(name, ""), wanted)]


def nvidia_specifications(packages: Iterable[str], installed: Mapping[str, str], wanted: str) -> list[str]:
    """What to ask apt for: each lacking package, in the version that the others have, for a driver of two versions
    does not work; in the best of what is wanted where none is there."""
    names = list(packages)
    there = [installed[name] for name in names if nvidia_is_of(installed.get(name, ""), wanted)]
    version = there[0] if there else nvidia_pattern(wanted)
    return [f"{name}={version}" for name in nvidia_lacking(names, installed, wanted)]


def nvidia_headers(kernel: str, installed: Iterable[str]) -> list[str]:
    """Packages with the headers of this kernel, and of those that the host's kernel packages will bring."""
    coming = re.compile(r"linux-image-([a-z].*)")
    names = [found[1] for name in sorted(installed) if (found := coming.fullmatch(name))]
    return [f"linux-headers-{name}" for name in (kernel, *names)]


def nvidia_secure_boot(content: str) -> bool:
    """Whether the firmware's variable SecureBoot, in base64, says on: four bytes of attributes, then 1."""
    return base64.b64decode(content)[4:] == b"\x01"


def nvidia_reboot_reason(kernel: Mapping[str, Any]) -> str:
    """Why only a reboot brings the installed driver into the kernel; "" where it is there.

    `kernel`: `installed` and `loaded`, versions of the module nvidia, "" for none; `nouveau`, whether that is loaded.
    """
    installed, loaded = kernel["installed"], kernel["loaded"]
    if kernel["nouveau"]:
        return "nouveau has the GPU"
    if installed and not loaded:
        return f"the kernel does not load the driver {installed} that is installed"
    if installed != loaded and installed:
        return f"driver/library version mismatch: the kernel has {loaded}, and {installed} is installed"
    return ""


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "nvidia_pci": nvidia_pci,
            "nvidia_installed": nvidia_installed,
            "nvidia_is_of": nvidia_is_of,
            "nvidia_lacking": nvidia_lacking,
            "nvidia_pattern": nvidia_pattern,
            "nvidia_specifications": nvidia_specifications,
            "nvidia_headers": nvidia_headers,
            "nvidia_secure_boot": nvidia_secure_boot,
            "nvidia_reboot_reason": nvidia_reboot_reason,
        }
