"""One scenario timed on one gateway: CPU seconds of its process tree over the window that the load measures.

Owns: the method (settle, window, foreign load, again where somebody else was busy). Does not own: what becomes of the
numbers (figures.py). Called by: __main__.py.
"""

from __future__ import annotations

import json
import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.bench import processes
from tests.bench.gateway_cost.answers import PATHS, question
from tests.bench.gateway_cost.gateways import HERE, LOAD_CORE, Gateway, Mock, pinned

_MAX_FOREIGN_CORES = 0.10
_SETTLE_LIMIT_S, _SETTLE_STEP_S, _SETTLED_CPU_S = 20.0, 0.4, 0.02


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table of scenarios.toml."""

    name: str
    conns: int
    api: str = "openai"
    model: str = "mock-model"
    prompt: int = 0
    rate: float = 0.0
    stream: bool = False
    chunks: int = 128
    delay_us: int = 0
    warmup: float = 2.0
    duration: float = 6.0

    def fits(self, gateway: Gateway) -> bool:
        """Whether this gateway can be asked that; who asks the engine itself translates nothing."""
        return (self.api == "openai" or gateway.spec.anthropic) and (
            self.model == "mock-model" or gateway.spec.translates
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What one run saw. `cpu_s` is by 1,000 requests or by 100,000 content chunks."""

    cpu_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    num_answers: int
    num_faults: int
    foreign_cores: float


def scenarios() -> list[Scenario]:
    """All of them."""
    tables: dict[str, dict[str, Any]] = tomllib.loads((HERE / "scenarios.toml").read_text())
    return [Scenario(name, **table) for name, table in tables.items()]


class Timer:
    """Times scenarios with one load program. `scale` multiplies every duration; files go to `folder`."""

    def __init__(self, load: Path, folder: Path, scale: float, num_retries: int) -> None:
        self._load, self._folder, self._scale, self._num_retries = load, folder, scale, num_retries

    def run(self, gateway: Gateway, mock: Mock, scenario: Scenario) -> Run:
        """The first run in which others left the machine alone, else the last of the retries."""
        run = self._once(gateway, mock, scenario)
        for _ in range(self._num_retries):
            if run.foreign_cores <= _MAX_FOREIGN_CORES:
                break
            run = self._once(gateway, mock, scenario)
        return run

    def _once(self, gateway: Gateway, mock: Mock, scenario: Scenario) -> Run:
        _settle(gateway)
        mock.set(scenario.chunks, scenario.delay_us)
        tree = gateway.tree()
        ours = {each.pid: each for each in [*tree, mock.process]}.values()
        began, busy, own = time.monotonic(), processes.busy_s(), sum(map(processes.cpu_s, ours))
        seen = self._loaded(gateway, scenario, tree)
        wall_s, busy, own = time.monotonic() - began, processes.busy_s() - busy, sum(map(processes.cpu_s, ours)) - own
        load_s = seen["load_cpu_s"] * (scenario.warmup + scenario.duration) / scenario.duration
        if scenario.stream:
            events_each = seen["events_per_stream"] or scenario.chunks + 4
            num_units, unit = seen["events"] * scenario.chunks / events_each, 100_000
        else:
            num_units, unit = seen["ok"], 1000
        return Run(
            cpu_s=seen["cpu_s"] * unit / max(1, num_units),
            per_s=num_units / seen["window_s"],
            p50_ms=seen["latency_ms"]["p50"],
            p99_ms=seen["latency_ms"]["p99"],
            first_p50_ms=seen["ttft_ms"]["p50"],
            num_answers=seen["ok"],
            num_faults=seen["bad"] + seen["neterr"] + seen["streams_without_end"],
            foreign_cores=max(0.0, busy - own - load_s) / wall_s,
        )

    def _loaded(self, gateway: Gateway, scenario: Scenario, tree: list[psutil.Process]) -> dict[str, Any]:
        body = self._folder / "body.json"
        body.write_bytes(question(scenario.api, scenario.stream, scenario.prompt, scenario.model))
        warmup_s, duration_s = scenario.warmup * self._scale, scenario.duration * self._scale
        options: list[object] = ["--port", gateway.port, "--path", PATHS[scenario.api], "--body", body]
        options += ["--conns", scenario.conns, "--warmup", warmup_s, "--duration", duration_s]
        options += ["--rate", scenario.rate] if scenario.rate else []
        options += ["--stream", "--stagger-us", scenario.delay_us / scenario.conns] if scenario.stream else []
        options += ["--pids", ",".join(str(each.pid) for each in tree)]
        for name, value in gateway.headers.items():
            options += ["--header", f"{name}: {value}"]
        command = pinned(LOAD_CORE, self._load, *options)
        done = subprocess.run(command, capture_output=True, check=True, timeout=warmup_s + duration_s + 60)
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


def _settle(gateway: Gateway) -> None:
    """Wait until the gateway has done with what the last run left behind."""
    deadline = time.monotonic() + _SETTLE_LIMIT_S
    while not gateway.spec.direct and time.monotonic() < deadline:
        before = processes.cpu_s(gateway.process)
        time.sleep(_SETTLE_STEP_S)
        if processes.cpu_s(gateway.process) - before <= _SETTLED_CPU_S:
            return
