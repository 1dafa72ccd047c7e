"""A load that is waited for, with its progress on a terminal.

Owns: asking how far it is while the gateway has not answered. Called by: commands.py.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cortex_contracts.wire.fleet import CommandDone, FleetStatus, ModelCommand
from cortex_contracts.wire.gateway import ModelEntry
from cortex_status import tables
from cortex_status.operate.asking import Asking
from cortex_status.operate.failures import Failure
from cortex_status.operate.targets import Target

_LOOK_EVERY_S = 1.0


async def load(asking: Asking, target: Target, command: ModelCommand, errors: Console) -> CommandDone:
    """Have the model loaded; answers when it is. Raises Failure. Where it is broken off the load goes on."""
    answer = asyncio.create_task(asking.post(target, "/fleet/models/load", CommandDone, command, patient=True))
    try:
        if errors.is_terminal:
            await _show_until(answer, asking, target, command, errors)
        return await answer
    except asyncio.CancelledError:
        tables.tell(errors, f"the load goes on; cortex load {command.model} waits for it again")
        raise
    finally:
        answer.cancel()


async def _show_until(
    answer: asyncio.Task[CommandDone], asking: Asking, target: Target, command: ModelCommand, errors: Console
) -> None:
    named = TextColumn("{task.description}", markup=False)
    columns = named, BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True) as bars:
        bar = bars.add_task(str(tables.line(f"loading {command.model}")), total=1.0)
        while not (await asyncio.wait({answer}, timeout=_LOOK_EVERY_S))[0]:
            with suppress(Failure):  # the answer tells
                status = await asking.get(target, "/fleet/status", FleetStatus)
                description, fraction = _stage(status, command)
                bars.update(bar, description=str(tables.line(description)), completed=fraction)


def _stage(status: FleetStatus, command: ModelCommand) -> tuple[str, float]:
    """What is being done, and the share of it that is."""
    for entry in status.models:
        if command.model == entry.id or command.model in entry.aliases:
            return _of_entry(entry, command)
    return f"loading {command.model}", 0.0


def _of_entry(entry: ModelEntry, command: ModelCommand) -> tuple[str, float]:
    for location in entry.locations:
        if location.progress is not None and command.neuron in (None, location.neuron):
            return f"{entry.id} on {location.neuron}: {location.progress.phase}", location.progress.fraction
    return f"loading {entry.id}", 0.0
