"""What each command does: ask a gateway, say what came of it, return the exit code.

Called by: cortex_status.cli.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from pydantic import BaseModel
from rich.console import Console

from cortex_contracts.wire.fleet import CommandDone, Explanation, ModelCommand, NeuronCommand
from cortex_status import tables
from cortex_status.operate import decision_log, loading, rendering
from cortex_status.operate.asking import Asking
from cortex_status.operate.failures import Failure, Unusable
from cortex_status.operate.targets import Source, Target, targets

DONE, REFUSED, INTERRUPTED = 0, 1, 130


def run(options: argparse.Namespace) -> int:
    """Carry out the command of `options`. Returns the exit code (options.EXITS)."""
    errors = tables.console(stderr=True)
    try:
        return asyncio.run(_run(options, errors))
    except Failure as failure:
        tables.tell(errors, str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


async def _run(options: argparse.Namespace, errors: Console) -> int:
    source = Source(options.inventory, options.vault_password_file, options.gateway or "", options.admin_key_file)
    known = await asyncio.to_thread(targets, source, os.environ)
    async with Asking(options.timeout) as asking:
        return await COMMANDS[options.command](_Command(options, asking, known, errors))


class _Command:
    """One command while it is carried out."""

    def __init__(self, options: argparse.Namespace, asking: Asking, known: Sequence[Target], errors: Console) -> None:
        self.options, self.asking, self.known, self.errors = options, asking, known, errors

    def model(self) -> ModelCommand:
        """Of which model, and where."""
        return ModelCommand(model=self.options.model, neuron=self.options.on)

    def warn(self, problem: str) -> None:
        """Say what does not keep the command from going on."""
        tables.tell(self.errors, problem)

    def done(self, answer: CommandDone) -> int:
        """Say what a command has come to."""
        self.show(answer, answer.message)
        return DONE

    def show(self, answer: BaseModel, words: str) -> None:
        """As JSON, or in words."""
        tables.console().out(answer.model_dump_json(indent=2) if self.options.json else str(tables.line(words)))


async def _explain(command: _Command) -> int:
    target = await command.asking.any_of(command.known)
    query = {"model": command.options.model}
    found = await command.asking.get(target, "/fleet/explain", Explanation, query)
    console = tables.console()
    if command.options.json:
        console.out(found.model_dump_json(indent=2))
    else:
        for part in rendering.explanation(found):
            console.print(part)
    return REFUSED if found.decision == "reject" else DONE


async def _load(command: _Command) -> int:
    target = await command.asking.any_of(command.known)
    if command.options.wait:
        return command.done(await loading.load(command.asking, target, command.model(), command.errors))
    path, query = "/fleet/models/load", {"wait": "false"}
    return command.done(await command.asking.post(target, path, CommandDone, command.model(), query))


async def _unload(command: _Command) -> int:
    target = await command.asking.any_of(command.known)
    query = {"force": "true"} if command.options.force else {}
    path = "/fleet/models/unload"
    return command.done(await command.asking.post(target, path, CommandDone, command.model(), query))


async def _pin(command: _Command) -> int:
    target = await command.asking.any_of(command.known)
    path = f"/fleet/models/{command.options.command}"
    return command.done(await command.asking.post(target, path, CommandDone, command.model()))


async def _drain(command: _Command) -> int:
    verb, neuron = command.options.command, command.options.neuron
    if neuron is not None:
        target = await command.asking.any_of(command.known)
        body = NeuronCommand(neuron=neuron)
        return command.done(await command.asking.post(target, f"/fleet/neurons/{verb}", CommandDone, body))
    if command.options.gateway is None:
        raise Unusable(f"say what to {verb}: a neuron's name, or --gateway")
    if len(command.known) > 1:
        names = ", ".join(target.name for target in command.known)
        raise Unusable(f"say which gateway to {verb}, as --gateway HOST: there is {names}")
    return command.done(await command.asking.post(command.known[0], f"/fleet/gateway/{verb}", CommandDone))


async def _logs(command: _Command) -> int:
    options = command.options
    if not options.follow:
        rows = await decision_log.last(command.asking, command.known, options.n, options.model, command.warn)
        _print_decisions(command, rows)
        return DONE
    following = decision_log.following(command.asking, command.known, options.n, options.model, command.warn)
    async for rows in following:
        _print_decisions(command, rows)
    return DONE


def _print_decisions(command: _Command, rows: Sequence[decision_log.Row]) -> None:
    console = tables.console()
    if command.options.json:
        for row in rows:
            console.out(row.model_dump_json())
    elif (shown := rendering.decisions(rows, several=len(command.known) > 1)) is not None:
        console.print(shown)


COMMANDS: dict[str, Callable[[_Command], Awaitable[int]]] = {
    "explain": _explain,
    "load": _load,
    "unload": _unload,
    "pin": _pin,
    "unpin": _pin,
    "drain": _drain,
    "undrain": _drain,
    "logs": _logs,
}
