"""What check.yml wants to know of a host; changes nothing. Runs there, by any Python from 3.8 on, without packages.

Given: a question (cortex_status.host_check.questions) as JSON, and the control machine's time. Prints one line of JSON,
cortex_status.host_check.answers.Answer. It observes; what is right is judged where the inventory is.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CONNECT_TIMEOUT_S = 3
COMMAND_TIMEOUT_S = 30
AT_ONCE = 64
LISTENING = "0A"  # of /proc/net/tcp
NVIDIA, DISPLAY = "0x10de", "0x03"  # of PCI: the vendor, and how a class of graphics begins


def main(question: dict[str, Any], asked_at: float) -> dict[str, Any]:
    """The answer."""
    now = time.time()
    python, reason = python_version(question["python"])
    root = Path(question["root"])
    return {
        "asked_at": asked_at,
        "time": now,
        "python": python,
        "python_reason": reason,
        "machine": platform.machine(),
        "systemd": Path("/run/systemd/system").exists(),
        "active_units": active_units(sorted({port["unit"] for port in question["ports"]})),
        "room_bytes": room_bytes(root),
        "dependencies": sorted(path.parent.name for path in root.glob("dependencies/*/complete")),
        "taken": taken([port["number"] for port in question["ports"]]),
        "executable": {path: os.access(path, os.X_OK) for path in question["programs"].values()},
        "present": {model: Path(path).exists() for model, path in question["sources"].items()},
        "unresolved": [name for name in question["names"] if not resolves(name)],
        "neurons": contacts(question["neurons"]),
        "gpus": {"on_bus": gpus_on_bus(), **driven_gpus()},
    }


def run(*argv: str) -> tuple[int, str]:
    """Exit code and all that it printed; 127 for what cannot be run."""
    try:
        done = subprocess.run(
            argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return 127, str(failure)
    return done.returncode, " ".join(done.stdout.split())


def python_version(path: str) -> tuple[list[int] | None, str]:
    code, words = run(path, "-c", "import sys; print(*sys.version_info[:2])")
    return (None, words) if code else ([int(part) for part in words.split()], "")


def active_units(names: list[str]) -> list[str]:
    return [name for name in names if run("systemctl", "is-active", name)[0] == 0]


def room_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def taken(ports: list[int]) -> dict[int, dict[str, Any]]:
    """Ports on which somebody listens, on whatever address."""
    sockets: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        found = {row[9]: int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING}
        sockets.update({inode: port for inode, port in found.items() if port in ports})
    known = owners(set(sockets))
    return {port: known.get(inode, {"by": "another program", "ours": None}) for inode, port in sockets.items()}


def owners(inodes: set[str]) -> dict[str, dict[str, Any]]:
    """Who has the sockets, as far as it may be seen."""
    found: dict[str, dict[str, Any]] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            held = {os.readlink(entry) for entry in (process / "fd").iterdir()} & wanted.keys()
            if held:
                command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                ours = (
                    any("cortex" in Path(part).name for part in command)
                    or "cortex-" in (process / "cgroup").read_text()
                )
                name = f"{(process / 'comm').read_text().strip()} (process {process.name})"
                found.update({wanted[link]: {"by": name, "ours": ours} for link in held})
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def contacts(neurons: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip((each["name"] for each in neurons), pool.map(contact, neurons)))  # noqa: B905  3.8 has no strict


def contact(neuron: dict[str, Any]) -> dict[str, str]:
    try:
        with socket.create_connection((neuron["address"], neuron["port"]), CONNECT_TIMEOUT_S):
            return {"outcome": "open"}
    except ConnectionRefusedError:
        return {"outcome": "refused", "reason": "refuses the connection"}
    except socket.gaierror as failure:
        return {"outcome": "unresolved", "reason": f"has no address here: {failure.strerror}"}
    except OSError as failure:
        return {"outcome": "failed", "reason": f"is not: {failure.strerror or failure}"}


def gpus_on_bus() -> int:
    found = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        found += vendor == NVIDIA and kind.startswith(DISPLAY)
    return found


def driven_gpus() -> dict[str, Any]:
    code, words = run("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
    if code == 127:
        return {"driven": None, "reason": "has no nvidia-smi"}
    return {"driven": None, "reason": f"says: {words}"} if code else {"driven": len(words.split()), "reason": ""}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), float(sys.argv[2]))))  # noqa: T201  its answer
