"""The process between daemon and vLLM server: how a server ends is told at once, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cortex_neuron.vllm import keeper

# As vLLM is: shared memory, which Python's resource tracker gives back, and an engine that takes no heed of SIGTERM.
SERVER = """
import os, signal, sys, time
from multiprocessing.shared_memory import SharedMemory
shared = SharedMemory(create=True, size=16)
engine = os.fork()
if not engine:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
print(shared.name.strip("/"), engine, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


@dataclass
class Kept:
    process: subprocess.Popen[bytes]
    report: int

    @classmethod
    def start(cls, *command: str) -> Kept:
        report, its_end = os.pipe()
        line = [sys.executable, "-I", "-S", keeper.__file__, str(its_end), *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(line, pass_fds=(its_end,), start_new_session=True, **pipes)  # type: ignore[call-overload]
        os.close(its_end)
        return cls(process, report)

    def told(self) -> tuple[Path, int]:
        """The server's shared memory, and its engine."""
        assert self.process.stdout is not None
        name, engine = self.process.stdout.readline().split()
        return Path("/dev/shm", name.decode()), int(engine)

    def end(self) -> bytes:
        """Wait for it; what it reported."""
        self.process.wait(15)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        said = os.read(self.report, 16)
        os.close(self.report)
        return said


def test_a_server_that_is_killed_gives_its_memory_back() -> None:
    """That of its engine, which must be killed, and what it shared, which its tracker gives back after that."""
    kept = Kept.start(sys.executable, "-c", SERVER, "killed")
    shared, engine = kept.told()
    assert kept.end() == b"-9"
    assert not psutil.pid_exists(engine)
    assert not shared.exists()


def test_a_server_ends_with_the_one_who_holds_the_pipe() -> None:
    """Whatever ended that one: the kernel closes its end."""
    kept = Kept.start(sys.executable, "-c", SERVER, "stays")
    shared, engine = kept.told()
    assert kept.process.stdin is not None
    kept.process.stdin.close()
    assert kept.end() == b"-15"
    assert not psutil.pid_exists(engine)
    assert not shared.exists()


@pytest.mark.parametrize(("command", "code"), [(["sh", "-c", "exit 3"], b"3"), (["/no/such/program"], b"127")])
def test_how_a_command_ended_is_told(command: list[str], code: bytes) -> None:
    """Its exit code, and that of a shell where it could not be started."""
    assert Kept.start(*command).end() == code
