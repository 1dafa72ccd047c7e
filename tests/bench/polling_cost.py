"""What polling many neurons costs a gateway that does nothing else: its share of a core.

python -m tests.bench.polling_cost [--neurons 1000] [--seconds 20] [--json FILE]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import processes
from tests.bench.many_neurons import MODELS

_COUNT, _PER_PROCESS = 1000, 250
_SECONDS = 20.0
_SETTLE_S = 3.0


@contextmanager
def _neurons(count: int, kind: str) -> Iterator[list[int]]:
    """The ports of `count` neurons that run inside the with block."""
    command = (sys.executable, "-m", "tests.bench.many_neurons", str(count), kind)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=processes.ROOT)
    try:
        assert child.stdout is not None
        yield json.loads(child.stdout.readline())
    finally:
        child.kill()
        child.wait()


def _write_config(folder: Path, ports: list[int], listen: int) -> None:
    lines = ["[gateway]", f'listen = "127.0.0.1:{listen}"', f'metrics_listen = "127.0.0.1:{processes.free_port()}"']
    for port in ports:
        lines += ["[[neurons]]", f'name = "n{port}"', f'url = "http://127.0.0.1:{port}"']
    (folder / "cortex.toml").write_text("\n".join(lines))
    entries = [f'[[models]]\nid = "{model_id}"\nsource = "-"\nvram_mb = 9000\n' for model_id in MODELS]
    (folder / "models.toml").write_text("\n".join(entries))


def _share_pct(count: int, kind: str, seconds: float) -> float:
    """The percentage of a core that a gateway takes to poll `count` neurons that are "idle" or "changing"."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sizes = [min(_PER_PROCESS, count - first) for first in range(0, count, _PER_PROCESS)]
        ports = [port for size in sizes for port in stack.enter_context(_neurons(size, kind))]
        listen = processes.free_port()
        _write_config(folder, ports, listen)
        command = (str(Path(sys.executable).parent / "cortex-gateway"), "--config", str(folder / "cortex.toml"))
        gateway = stack.enter_context(processes.started(*command, "--models", str(folder / "models.toml")))
        processes.wait_for(f"http://127.0.0.1:{listen}/health", '"status":"ok"', 60)
        time.sleep(_SETTLE_S)
        before, began = processes.cpu_s(gateway), time.monotonic()
        time.sleep(seconds)
        return 100 * (processes.cpu_s(gateway) - before) / (time.monotonic() - began)


def measure() -> dict[str, float]:
    """Poll neurons that say the same again, then neurons whose every answer is another."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the gateway inherits it: a connection a neuron
    try:
        return {f"poll_{_COUNT}_{kind}_pct": _share_pct(_COUNT, kind, _SECONDS) for kind in ("idle", "changing")}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
