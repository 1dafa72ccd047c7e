"""What an operator of many hosts waits for: the inventory's check, the gateway's files, `cortex-status`."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import many_hosts, processes

_COUNT, _RUNS = 200, 5
_BIN = Path(sys.executable).parent
_RENDERING = "TASK [gateway : Render cortex.toml]"


@contextmanager
def answering(count: int, port: int) -> Iterator[None]:
    """Every host of the inventory answers inside the with block."""
    command = (sys.executable, "-m", "tests.bench.many_hosts", str(count), str(port))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=processes.ROOT) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield
        finally:
            child.kill()


@dataclass(frozen=True)
class Ran:
    """A command that ended: what it printed, each line with the seconds since its start, and what it took."""

    lines: list[tuple[float, str]]
    wall_s: float
    cpu_s: float


def measure() -> dict[str, float]:
    """Medians; of each command the time, and its processor seconds, which other work on the machine changes less.

    A run of site.yml that the check refuses is one of its first play; of one for the gateway alone, which has that play
    before it, the rendering of cortex.toml is told, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = processes.free_port()
        inventory = str(many_hosts.write_inventory(Path(folder), _COUNT, port, _BIN))
        site, status = (str(_BIN / "ansible-playbook"), "-i", inventory, "site.yml"), str(_BIN / "cortex-status")
        with answering(_COUNT, port):
            runs = {
                "inventory_check": _runs(str(_BIN / "cortex"), "inventory", "check", "-i", inventory),
                "site_refused": _runs(*site, "-e", "neuron_prot=1", fails=True),
                "site_gateway": _runs(*site, "--limit", many_hosts.GATEWAY),
                "status": _runs(status, "-i", inventory),
            }
    figures = {f"{name}_s": statistics.median(run.wall_s for run in each) for name, each in runs.items()}
    figures |= {f"{name}_cpu_s": statistics.median(run.cpu_s for run in each) for name, each in runs.items()}
    return figures | {"cortex_toml_s": statistics.median(map(_rendering_s, runs["site_gateway"]))}


def _rendering_s(run: Ran) -> float:
    times = [at for at, _ in run.lines] + [run.wall_s]
    [number] = [number for number, (_, line) in enumerate(run.lines) if line.startswith(_RENDERING)]
    return times[number + 1] - times[number]


def _runs(*command: str, fails: bool = False) -> list[Ran]:
    return [_run(*command, fails=fails) for _ in range(_RUNS)]


def _run(*command: str, fails: bool) -> Ran:
    began, before = time.monotonic(), _cpu_s()
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=processes.ROOT, env=environment
    ) as child:
        assert child.stdout is not None
        lines = [(time.monotonic() - began, line) for line in child.stdout]
    if (child.returncode != 0) != fails:
        raise RuntimeError(f"{command} ended with {child.returncode}: {''.join(line for _, line in lines)[-3000:]}")
    return Ran(lines, time.monotonic() - began, _cpu_s() - before)


def _cpu_s() -> float:
    """Of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
