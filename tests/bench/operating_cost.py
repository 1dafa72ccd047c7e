"""What an operator of many hosts waits for: the inventory's check, the gateway's files, `cortex-status`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def measure() -> dict[str, float]:
    """Medians. A run of site.yml that the check refuses is one of its first play; of one for the gateway alone, which
    has that play before it, the rendering of cortex.toml is told, too."""
    with tempfile.TemporaryDirectory() as folder:
        port = processes.free_port()
        inventory = many_hosts.write_inventory(Path(folder), _COUNT, port, _BIN)
        site = (str(_BIN / "ansible-playbook"), "-i", str(inventory), "site.yml")
        runs = [_lines(*site, "--limit", many_hosts.GATEWAY) for _ in range(_RUNS)]
        with answering(_COUNT, port):
            status = [_lines(str(_BIN / "cortex-status"), "-i", str(inventory))[-1][0] for _ in range(_RUNS)]
        check = [_lines(str(_BIN / "cortex"), "inventory", "check", "-i", str(inventory))[-1][0] for _ in range(_RUNS)]
        refused = [_lines(*site, "-e", "neuron_prot=1", fails=True)[-1][0] for _ in range(_RUNS)]
    return {
        f"inventory_check_{_COUNT}_s": statistics.median(check),
        f"site_refused_{_COUNT}_s": statistics.median(refused),
        f"site_gateway_{_COUNT}_s": statistics.median(run[-1][0] for run in runs),
        f"cortex_toml_{_COUNT}_s": statistics.median(map(_rendering_s, runs)),
        f"status_{_COUNT}_s": statistics.median(status),
    }


def _rendering_s(lines: list[tuple[float, str]]) -> float:
    times = [at for at, _ in lines]
    [number] = [number for number, (_, line) in enumerate(lines) if line.startswith(_RENDERING)]
    return times[number + 1] - times[number]


def _lines(*command: str, fails: bool = False) -> list[tuple[float, str]]:
    """The lines that a command prints, and the end of it, each with the seconds since its start."""
    began = time.monotonic()
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=processes.ROOT, env=environment
    )
    assert child.stdout is not None
    lines = [(time.monotonic() - began, line) for line in child.stdout]
    if (child.wait() != 0) != fails:
        raise RuntimeError(f"{command} ended with {child.returncode}: {''.join(line for _, line in lines)[-3000:]}")
    return [*lines, (time.monotonic() - began, "")]
