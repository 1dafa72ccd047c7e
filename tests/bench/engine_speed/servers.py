"""The servers that are measured, one at a time.

Owns: which there are (peers.toml), starting one and timing that, loading a model again, its memory and processor time.
Does not own: what is asked of it (loads.py). Called by: runs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tests.bench import processes, programs
from tests.bench.engine_speed import checkpoint, limits
from tests.bench.engine_speed.loads import Loads
from tests.bench.engine_speed.prompts import Prompts

HERE = Path(__file__).resolve().parent
_READY_STEP_S = 0.02
_LOAD_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Spec(programs.Program):
    """One table of peers.toml."""

    model: str = "smollm2"  # what is asked for
    weights: str = limits.FILE_FORMAT  # what a token reads, by limits.bytes_per_token's names
    body: Mapping[str, Any] = field(default_factory=dict)
    is_neuron: bool = False
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """One that has answered. `start_s` is from before its command to its first token."""

    spec: Spec
    version: str
    process: psutil.Process
    loads: Loads
    start_s: float

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        return [self.process, *self.process.children(recursive=True)]

    def memory_mb(self) -> float:
        """Of the tree; pages that its processes share count once."""
        total = 0
        for each in self.tree():
            with contextlib.suppress(psutil.Error):
                total += each.memory_full_info().pss
        return total / 2**20

    async def load_again(self) -> float:
        """Unload a neuron's model; seconds from asking for it again to its first token."""
        self._post("/models/unload")
        began = time.perf_counter()
        self._post("/models/load")
        row = f"http://127.0.0.1:{self.loads.port}/models/{self.spec.model}"
        await asyncio.to_thread(processes.wait_for, row, '"loaded"', _LOAD_TIMEOUT_S)
        await self.loads.one_token()
        return time.perf_counter() - began

    def _post(self, path: str) -> None:
        body = json.dumps({"model_id": self.spec.model}).encode()
        url = f"http://127.0.0.1:{self.loads.port}{path}"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=_LOAD_TIMEOUT_S):
            pass


def specs(peers: Path | None) -> list[Spec]:
    """What can be measured here."""
    return [spec for spec in programs.listed(HERE / "peers.toml", Spec) if spec.installed(peers)]


@contextlib.contextmanager
def running(spec: Spec, peers: Path | None, folder: Path, prompts: Prompts, scale: float) -> Iterator[Server]:
    """The server, once it has answered; its files and its log are in `folder`."""
    names = _names(spec, peers, folder)
    port = int(names["{port}"])
    body = {key: programs.filled(value, names) if isinstance(value, str) else value for key, value in spec.body.items()}
    loads = Loads(port, programs.filled(spec.model, names), body, prompts, scale)
    version = spec.says_its_version(names)
    began = time.perf_counter()
    with programs.started(spec, names, folder, HERE / "configs", step_s=_READY_STEP_S) as process:
        asyncio.run(loads.one_token())
        start_s = time.perf_counter() - began
        yield Server(spec, version, psutil.Process(process.pid), loads, start_s)


def _names(spec: Spec, peers: Path | None, folder: Path) -> dict[str, str]:
    names = {
        "{peers}": str(peers), "{run}": str(folder), "{bin}": str(processes.BIN), "{port}": str(processes.free_port()),
        "{gguf}": str(processes.DEMO_MODEL), "{cores}": str(len(os.sched_getaffinity(0))),
    }  # fmt: skip
    if any("{float32}" in text for text in (*spec.start, spec.model)):
        names["{float32}"] = str(checkpoint.float32_folder())
    return names
