"""`cortex doctor` with real processes over gloo: what it says of a host that works, and of one that does not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_nvml
import psutil
import pytest
from neuron_process import ROOT, until

from cortex_neuron.doctor import examination
from cortex_neuron.doctor.examination import Ranks
from cortex_neuron.doctor.facts import RankDevice, Report
from cortex_neuron.doctor.findings import Findings
from cortex_neuron.doctor.options import Order
from cortex_neuron.group.fork_server import start_fork_server, stop_fork_server

BIN = Path(sys.executable).parent
FAULTY = ROOT / "tests/integration/faulty_doctor.py"
DEADLINE_S = 60.0
TIMEOUT_S = 1.0
# From a rank's fault until all of its group is gone: what a rank waits before it blames another, what a silent one has
# beyond its time, and the end of the processes.
GRACE_S = 3.0


@dataclass(frozen=True)
class Finished:
    code: int | None
    lines: list[str]
    err: str

    @property
    def report(self) -> Report:
        return Report.model_validate_json("\n".join(self.lines))


async def start(folder: Path, *command: Any) -> asyncio.subprocess.Process:
    """All files that it makes are in `folder`, all its processes in its session or that of a rank."""
    return await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip


async def finish(process: asyncio.subprocess.Process) -> Finished:
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return Finished(process.returncode, out.decode().splitlines(), err.decode())


async def doctor(folder: Path, *command: Any) -> Finished:
    return await finish(await start(folder, *command))


async def test_a_host_that_works_is_said_to(tmp_path: Path) -> None:
    """Each step on its line, with figures, and exit code 0; no file is left of it."""
    found = await doctor(tmp_path, BIN / "cortex", "doctor", "--tp", "2", "--devices", "cpu", "--size-mb", "1,2")
    assert (found.code, found.err) == (0, "")
    steps = ["driver", "devices", "torch", "ranks", "handshake", "sanity", "all-reduce", "all-reduce"]
    assert [line.split()[:2] for line in found.lines[:-1]] == [[step, "ok"] for step in steps]
    assert "every rank has observed 2" in found.lines[5]
    assert "1 MB: " in found.lines[6]
    assert "GB/s bus" in found.lines[7]
    assert found.lines[-1] == "verdict: tensor parallelism over 2 ranks on the CPU works"
    assert list(tmp_path.iterdir()) == []


async def test_gpus_that_this_host_has_not_are_two_faults(tmp_path: Path) -> None:
    """The kind is that of what a rank would find first; the words have the other, too."""
    found = await doctor(tmp_path, BIN / "cortex", "doctor", "--tp", "2", "--devices", "0,1")
    assert (found.code, found.err) == (1, "")
    seen = [line.split()[:2] for line in found.lines[:-1]]
    assert seen == [["driver", "failed"], ["devices", "skipped"], ["torch", "failed"]]
    assert "was built without CUDA; there is no NVIDIA driver (cuda_feature_not_enabled)" in found.lines[-1]
    assert list(tmp_path.iterdir()) == []


async def test_a_driver_that_needs_a_reboot_is_called_that(tmp_path: Path) -> None:
    """Its file says where the library is, and which devices: both are taken from there."""
    left, config = tmp_path / "tmp", tmp_path / "neuron.toml"
    left.mkdir()
    environment = {"LD_LIBRARY_PATH": str(fake_nvml.build(tmp_path)), "FAKE_NVML_INIT": "18"}
    pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items())
    config.write_text(f'[neuron]\nname = "here"\ndevices = [0, 1]\nenvironment = {{{pairs}}}\n')
    found = await doctor(left, BIN / "cortex-neuron", "doctor", "--json", "--config", config)
    assert (found.code, found.err) == (1, "")
    report = found.report
    assert report.driver is not None
    assert report.driver.problem == "driver/library version mismatch: reboot"
    assert [each.device for each in report.devices] == ["cuda:0", "cuda:1"]
    assert report.verdict.endswith("; reboot the host")
    assert list(left.iterdir()) == []


async def test_what_contradicts_itself_is_named(tmp_path: Path) -> None:
    """Exit code 2, before anything is started."""
    many, none = await asyncio.gather(
        doctor(tmp_path, BIN / "cortex", "doctor", "--tp", "3", "--devices", "0,1"),
        doctor(tmp_path, BIN / "cortex", "doctor", "--config", tmp_path / "none.toml"),
    )
    assert (many.code, many.lines) == (none.code, none.lines) == (2, [])
    assert "--tp: 3 ranks need 3 devices" in many.err
    assert "none.toml: cannot be read" in none.err


async def test_ctrl_c_ends_it_whatever_hangs(tmp_path: Path) -> None:
    """Exit code 130, no word, no process, no file."""
    fault(tmp_path, 1, "init", "hang")
    process = await start(tmp_path, sys.executable, FAULTY, "--tp", "2", "--devices", "cpu")
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while not (line := await process.stdout.readline()).startswith(b"ranks"):
            assert line
    children = psutil.Process(process.pid).children(recursive=True)
    await until(lambda: any_is(children, psutil.STATUS_STOPPED))
    process.send_signal(signal.SIGINT)
    found = await finish(process)
    assert (found.code, found.lines, found.err) == (130, [], "")
    await until(lambda: all_are_gone(children), 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["fault.json"]


async def any_is(processes: list[psutil.Process], status: str) -> bool:
    return any(process.status() == status for process in processes)


async def all_are_gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


# ---- in this process, where one fork server is for all


def fault(folder: Path, rank: int | None, op: str = "", action: str = "") -> None:
    (folder / "fault.json").write_text(json.dumps({"rank": rank, "op": op, "action": action}))


@pytest.fixture(scope="module")
def fork_server() -> Iterator[psutil.Process]:
    before = set(psutil.Process().children())
    start_fork_server("cortex_neuron.doctor.rank")
    new = [each for each in psutil.Process().children() if each not in before]
    (server,) = [each for each in new if "forkserver" in str(each.cmdline())]
    yield server
    stop_fork_server()


async def examined(folder: Path, fork_server: psutil.Process, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The report on two ranks, whose host has been looked at; none of them is left."""

    async def looked(_order: Order, _ranks: Ranks, findings: Findings) -> None:
        findings.devices = tuple(RankDevice(rank=rank, device="cpu") for rank in range(2))

    monkeypatch.setattr(examination, "look_at_host", looked)
    sockets = folder / "run"
    sockets.mkdir()
    ranks = Ranks("faulty_doctor", sockets, lambda: None)
    report = await examination.examine(Order("cpu", 2, (1,), TIMEOUT_S), ranks, lambda _: None)
    assert fork_server.children() == []
    assert list(sockets.iterdir()) == []
    return report


async def test_the_document_has_figures(
    tmp_path: Path, fork_server: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each step how long it took, of each size its bandwidth."""
    fault(tmp_path, None)
    report = await examined(tmp_path, fork_server, monkeypatch)
    assert (report.healthy, report.failure) == (True, None)
    assert [(step.step, step.outcome) for step in report.steps] == [
        (step, "ok") for step in ("ranks", "handshake", "sanity", "all-reduce")
    ]
    assert all(step.seconds is not None for step in report.steps)
    (measured,) = report.all_reduce
    assert (measured.size_mb, measured.num_samples) == (1, 5)
    assert measured.bus_gb_s == measured.algorithm_gb_s > 0  # over two ranks


@pytest.mark.parametrize(
    ("rank", "op", "action", "step", "kind", "blamed"),
    [
        (1, "init", "kill", "handshake", "rank_died", 1),
        (0, "init", "kill", "handshake", "rank_died", 0),
        (1, "init", "hang", "handshake", "nccl_init_failed", 1),
        (0, "init", "hang", "handshake", "ping_timeout", 0),
        (1, "sanity_check", "kill", "sanity", "rank_died", 1),
        (1, "measure", "kill", "all-reduce", "rank_died", 1),
        (1, "measure", "spoil", "all-reduce", "nccl_sanity_failed", 1),
    ],
)
async def test_the_rank_that_fails_is_named(
    rank: int, op: str, action: str, step: str, kind: str, blamed: int,
    tmp_path: Path, fork_server: psutil.Process, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With the step and the kind, within the deadline; and none of the group is left."""
    fault(tmp_path, rank, op, action)
    report = await examined(tmp_path, fork_server, monkeypatch)
    assert report.failure is not None
    assert (report.failure.step, report.failure.kind, report.failure.rank) == (step, kind, blamed), report.failure
    assert f"rank {blamed}" in report.verdict
    assert f"({kind})" in report.verdict
    assert (report.steps[-1].step, report.steps[-1].outcome) == (step, "failed")
    seconds = report.steps[-1].seconds
    assert seconds is not None
    assert seconds < TIMEOUT_S + GRACE_S
