"""`cortex up`: check, render, start, wait, and keep running until Ctrl-C, SIGTERM or the death of a service.

Owns: the order of things and the exit code. Does not own: each step (the other modules of this folder).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cortex_contracts.inventory.fleet import Fleet
from cortex_contracts.inventory.problems import InventoryInvalid
from cortex_status import inventory
from cortex_status.progress import Progress
from cortex_status.up import orphans, playbook, ports, readiness, services, welcome
from cortex_status.up.children import Children
from cortex_status.up.failures import UpFailed
from cortex_status.up.services import NeuronService, Service

INTERRUPTED = 130
AFTER_NEURONS = "Gateways"  # the play of site.yml that follows that of the neurons


@dataclass(frozen=True)
class Plan:
    """What is to be run, and from where it is known."""

    sources: Sequence[str]
    vault_password_files: Sequence[str]
    fleet: Fleet
    services: list[Service]


def run(sources: Sequence[str], vault_password_files: Sequence[str]) -> int:
    """Returns 0 when stopped after it was ready, 130 when before, 1 when something failed."""
    started = time.monotonic()
    progress = Progress(sys.stdout)
    try:
        progress.stage("checking the inventory")
        plan = _plan(sources, vault_password_files)
        return asyncio.run(_up(plan, progress, started))
    except UpFailed as failure:
        progress.say(str(failure))
        return 1
    except KeyboardInterrupt:  # before the loop has taken the signals
        return INTERRUPTED


def _plan(sources: Sequence[str], vault_password_files: Sequence[str]) -> Plan:
    try:
        declared = inventory.read(sources, vault_password_files)
        fleet = inventory.fleet(declared)
    except (inventory.InventoryUnreadable, InventoryInvalid) as error:
        raise UpFailed(str(error)) from error
    ours = services.services(declared, fleet)
    if not ours:
        raise UpFailed(
            f"{', '.join(sources)}: no host has ansible_connection local and cortex_service_manager none, so there is "
            "nothing to start here; ansible-playbook site.yml sets the other hosts up"
        )
    if problems := list(ports.taken(ours)):
        raise UpFailed("\n".join(problems))
    return Plan(sources, vault_password_files, fleet, ours)


async def _up(plan: Plan, progress: Progress, started: float) -> int:
    children = Children()
    interrupted = _interruption(children)
    try:
        if await _first(_bring_up(plan, children, progress), interrupted.wait()) == 1:
            return INTERRUPTED
        progress.say(welcome.text(plan.fleet, plan.services, plan.sources, time.monotonic() - started))
        await _first(children.death(), interrupted.wait())
        return 0
    finally:
        await children.stop(progress)
        progress.say("stopped")


async def _bring_up(plan: Plan, children: Children, progress: Progress) -> None:
    orphans.adopt()
    neurons = [service for service in plan.services if isinstance(service, NeuronService)]
    gateways = [service for service in plan.services if service not in neurons]
    async with contextlib.aclosing(playbook.plays(plan.sources, plan.vault_password_files, progress)) as plays:
        async for play in plays:
            if play == AFTER_NEURONS:  # their files are there, and they take longest
                await _start(neurons, children)
                neurons = []
    await _start([*neurons, *gateways], children)
    await _first(_ready(plan.services, progress), children.death())


async def _start(services: Sequence[Service], children: Children) -> None:
    for service in services:
        await children.start(service)


async def _ready(services: Sequence[Service], progress: Progress) -> None:
    neurons = [service.host for service in services if isinstance(service, NeuronService)]
    for service in services:
        await readiness.wait_for(service, neurons, progress)


def _interruption(children: Children) -> asyncio.Event:
    """Set by the first signal to end; the second one stops the waiting for services that end by themselves."""
    interrupted = asyncio.Event()

    def take() -> None:
        if interrupted.is_set():
            children.kill()
        interrupted.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, take)
    return interrupted


async def _first(*works: Coroutine[Any, Any, object]) -> int:
    """Which of the works ended first; the others are cancelled, and what it raised is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(task for task in tasks if task in done)
        await first
        return tasks.index(first)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
