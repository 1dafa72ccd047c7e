"""`cortex-neuron doctor` from its options to its exit code.

Owns: the environment, the fork server, the folder of sockets, signals, and what is printed. Does not own: the steps
(examination). Called by: cortex_neuron.cli.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import multiprocessing.resource_tracker as resource_tracker
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_neuron import configuration
from cortex_neuron.doctor.examination import Ranks, examine
from cortex_neuron.doctor.facts import Report, Step
from cortex_neuron.doctor.options import HEALTHY, UNHEALTHY, UNUSABLE, Order, OrderInvalid, order
from cortex_neuron.group.fork_server import start_fork_server, stop_fork_server
from cortex_serving import logs

RANK_MODULE = "cortex_neuron.doctor.rank"
PRELOAD = "cortex_neuron.engine.preload"
_KILLED_S = 2.0
_LONGEST_FOLDER = 80  # bytes: a socket's path may have 107
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: argparse.Namespace, config: str | None, rank_module: str = RANK_MODULE) -> int:
    """Examine this host and say so. `config` is a neuron.toml; the rank module is another only in tests."""
    try:
        examined = _order(options, config)
    except (ConfigInvalid, OrderInvalid) as invalid:
        sys.stderr.write(f"{invalid}\n")
        return UNUSABLE
    logs.configure(logging.CRITICAL)  # what a group says when it dies is told in words
    with _folder() as folder:
        code = asyncio.run(_until_signal(_examine(options.json, examined, folder, rank_module)))
        _stop_fork_server()
    _leave(code)
    return code


def _order(options: argparse.Namespace, config: str | None) -> Order:
    """Also sets the environment, which the ranks inherit. Raises ConfigInvalid, OrderInvalid."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML counts
    if config is None:
        return order(options)
    settings = configuration.read_settings(config).neuron
    os.environ.update(settings.environment)
    return order(options, settings.devices)


async def _examine(as_json: bool, examined: Order, folder: Path, rank_module: str) -> int:
    os.environ["TMPDIR"] = str(folder)  # of the ranks: torch makes folders that it leaves
    ranks = Ranks(rank_module, folder, _start_fork_server)
    try:
        report = await examine(examined, ranks, _silent if as_json else _print_step)
    finally:
        _stop_fork_server()
    _print(report.model_dump_json(indent=2) if as_json else _last_line(report))
    return HEALTHY if report.healthy else UNHEALTHY


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """The exit code. A signal ends the work, once: its end has deadlines of its own."""
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            received.append(number)
            task.cancel()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    await asyncio.wait([task])
    return 128 + received[0] if task.cancelled() else task.result()


@contextmanager
def _folder() -> Iterator[Path]:
    usual = tempfile.gettempdir()
    parent = usual if len(os.fsencode(usual)) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108  mkdtemp makes it ours
    with tempfile.TemporaryDirectory(prefix="cortex-doctor-", dir=parent) as name:
        yield Path(name)


def _start_fork_server() -> None:
    # What it inherits stays blocked: a Ctrl-C is for this process to answer, at any moment of that import. To start
    # the resource tracker unblocks it, so that comes first.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        start_fork_server(PRELOAD)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _stop_fork_server() -> None:
    """Twice: a thread that waits in vain for the first to make a rank starts another, which need import nothing."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([])
    stop_fork_server()


def _leave(code: int) -> None:
    """A rank that hangs in the kernel cannot be waited for, as multiprocessing would when this process ends."""
    for process in multiprocessing.active_children():
        process.join(_KILLED_S)
    if multiprocessing.active_children():
        sys.stdout.flush()
        os._exit(code)


def _print_step(step: Step) -> None:
    took = f" ({step.seconds:.2f} s)" if step.seconds is not None and step.step != "all-reduce" else ""
    _print(f"{step.step:<11} {step.outcome:<8} {' '.join(step.words.split())}{took}")


def _silent(step: Step) -> None:
    """With --json there is one document, at the end."""


def _last_line(report: Report) -> str:
    return f"verdict: {report.verdict}"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
