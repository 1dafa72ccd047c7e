"""One server measured: started some times, then each load run some times.

Owns: the order, and doing a run again where somebody else was busy. Does not own: what becomes of the numbers
(figures.py). Called by: __main__.py, alone.py.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import processes
from tests.bench.engine_speed import servers
from tests.bench.engine_speed.figures import Measured
from tests.bench.engine_speed.prompts import Prompts
from tests.bench.engine_speed.servers import Server, Spec

_SLOW_START_S = 60.0  # such a start is not worth repeating
_MAX_FOREIGN_CORES = 0.10


@dataclass(frozen=True, slots=True)
class Method:
    """How much is done. `scale` multiplies every length; `sweep` asks what the plot shows, and nothing else."""

    prompts: Prompts
    repeat: int = 5
    retries: int = 2
    scale: float = 1.0
    sweep: bool = False


def measure(spec: Spec, peers: Path | None, method: Method, also: Callable[[Server], None] | None = None) -> Measured:
    """Start, load, stop. `also` is called with the server before the loads. Raises programs.NotReady, RuntimeError."""
    measured = Measured(spec.title)
    for left in range(0 if method.sweep else method.repeat, -1, -1):
        # The first start brings files into memory, and counts only where it is the only one.
        with (
            tempfile.TemporaryDirectory() as folder,
            servers.running(spec, peers, Path(folder), method.prompts, method.scale) as server,
        ):
            measured.version = server.version
            is_last = left == 0 or server.start_s > _SLOW_START_S
            if left < method.repeat or is_last:
                measured.add({"cold_start_s": server.start_s})
            if is_last:
                if also:
                    also(server)
                asyncio.run(_loaded(server, method, measured))
                break
    return measured


async def _loaded(server: Server, method: Method, measured: Measured) -> None:
    await server.loads.warm_up()
    loads = server.loads.swept() if method.sweep else server.loads.named()
    for name, run in loads.items():
        for _ in range(method.repeat):
            seen, foreign = await _undisturbed(server, run, method.retries)
            measured.add(seen)
            measured.foreign_cores = max(measured.foreign_cores, foreign)
            words = "  ".join(f"{key} {value:.3f}" for key, value in seen.items())
            print(f"  {name:14} {words}  foreign {foreign:.2f}", flush=True)
    measured.add({"rss_mb": server.memory_mb()})
    for _ in range(method.repeat if server.spec.is_neuron and not method.sweep else 0):
        measured.add({"load_s": await server.load_again()})
    measured.notes = sorted(server.loads.off)


async def _undisturbed(
    server: Server, run: Callable[[], Awaitable[dict[str, float]]], num_retries: int
) -> tuple[dict[str, float], float]:
    """Figures of the first run in which others left the machine alone, else of the last; and the cores they took."""
    while True:
        before, began = _foreign_s(server), time.monotonic()
        seen = await run()
        foreign = max(0.0, _foreign_s(server) - before) / (time.monotonic() - began)
        if foreign <= _MAX_FOREIGN_CORES or num_retries <= 0:
            return seen, foreign
        num_retries -= 1


def _foreign_s(server: Server) -> float:
    own = sum(os.times()[:2])
    return processes.busy_s() - processes.cpu_s(server.process) - own
