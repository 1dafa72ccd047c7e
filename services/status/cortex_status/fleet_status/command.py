"""The command `cortex-status`: options, the watching, the exit code.

Called by: cortex_status.cli.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cortex_contracts.inventory.fleet import Fleet
from cortex_contracts.inventory.problems import InventoryInvalid
from cortex_status import inventory, tables
from cortex_status.arguments import seconds
from cortex_status.fleet_status.asking import ask
from cortex_status.fleet_status.document import EXIT_CODES, Document, Verdict, document, unusable
from cortex_status.fleet_status.rendering import parts

INTERRUPTED = 130
EXITS = """\
exit codes:
  0    all is well and as declared
  1    something drifted or is unhealthy
  2    the inventory or the command line cannot be used; every problem is printed
  3    nothing answers at all
  130  interrupted, which is how --watch ends
"""


def main(argv: list[str] | None = None) -> int:
    """Shows the fleet. Returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        return _status(options)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cortex-status",
        description="What runs in a fleet, beside what its inventory declares.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-i", "--inventory", action="append", required=True, help="file, folder or executable; may be given again"
    )
    parser.add_argument(
        "--vault-password-file", action="append", default=[], metavar="FILE", help="password of vaulted variables"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document; with --watch, one a line")
    parser.add_argument(
        "--watch", type=seconds, nargs="?", const=2.0, metavar="SECONDS", help="ask again, every 2 s unless told"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="for all the answers of a host (default: 5)"
    )
    return parser


def _status(options: argparse.Namespace) -> int:
    console = tables.console()
    try:
        fleet = inventory.fleet(inventory.read(options.inventory, options.vault_password_file))
    except inventory.InventoryUnreadable as error:
        return _unusable([str(error)], options.json)
    except InventoryInvalid as error:
        return _unusable(error.problems, options.json)
    if options.watch is not None:
        asyncio.run(_watch(fleet, options, console))
    seen = asyncio.run(_look(fleet, options.timeout))
    _print(console, seen, fleet, options)
    return EXIT_CODES[seen.verdict]


def _unusable(problems: list[str], as_json: bool) -> int:
    if as_json:
        print(unusable(problems, datetime.now(UTC)).model_dump_json(indent=2))
    errors = tables.console(stderr=True)
    for problem in problems:
        errors.print(problem, soft_wrap=True)
    return EXIT_CODES[Verdict.INVENTORY_UNUSABLE]


async def _look(fleet: Fleet, timeout_s: float) -> Document:
    asked_at = datetime.now(UTC)
    return document(fleet, await ask(fleet, timeout_s), asked_at)


async def _watch(fleet: Fleet, options: argparse.Namespace, console: Console) -> NoReturn:
    """Shows the fleet again and again until interrupted: in place on a terminal, else a block each time."""
    if console.is_terminal and not options.json:
        with Live(console=console, auto_refresh=False) as live:
            await _repeat(fleet, options, lambda seen: live.update(_screen(seen, fleet), refresh=True))
    await _repeat(fleet, options, lambda seen: _print(console, seen, fleet, options))


async def _repeat(fleet: Fleet, options: argparse.Namespace, show: Callable[[Document], None]) -> NoReturn:
    while True:
        show(await _look(fleet, options.timeout))
        await asyncio.sleep(options.watch)


def _screen(seen: Document, fleet: Fleet) -> Group:
    """One screen of a watch. What is wrong comes first: a terminal that is too small cuts the bottom."""
    return Group(_time(seen), *reversed(parts(seen, fleet)))


def _print(console: Console, seen: Document, fleet: Fleet, options: argparse.Namespace) -> None:
    if options.json:
        # Not by rich, which takes seconds for the megabytes of a large fleet.
        print(seen.model_dump_json(indent=2 if options.watch is None else None), flush=True)
        return
    blocks: list[RenderableType] = parts(seen, fleet)
    for block in blocks if options.watch is None else [_time(seen), *blocks]:
        console.print(block)
        console.print()


def _time(seen: Document) -> Text:
    return Text(f"{seen.asked_at:%Y-%m-%d %H:%M:%S} UTC", style="dim")
