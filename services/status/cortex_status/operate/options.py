"""The command lines of this package's commands.

Owns: arguments, help and examples. Called by: cortex_status.cli.
"""

from __future__ import annotations

import argparse
from typing import Any

from cortex_status.arguments import seconds

EXITS = """\
exit codes:
  0    done
  1    the gateway refuses, and says why; of explain: it can be served nowhere now
  2    the inventory, the admin key or the command line cannot be used
  3    no gateway answers
  130  interrupted, which is how logs --follow ends

The admin key is gateway_admin_key of the inventory, else that of --admin-key-file, else the environment's
CORTEX_ADMIN_KEY; a key file is taken before the inventory's."""
DRAINS = ("drain", "undrain")
_MOST_ROWS = 2000


def add_to(commands: Any) -> None:
    """Add every command to argparse's subparsers."""
    explain = _added(commands, "explain", "say where a request for a model would go now, and why", "qwen3-8b")
    _takes_model(explain)
    load = _added(commands, "load", "have a model loaded, and wait until it is", "qwen3-8b", "qwen3-8b --on rack2")
    _takes_model(load, where="where; without it where it fits best")
    load.add_argument("--no-wait", dest="wait", action="store_false", help="answer once the load is under way")
    unload = _added(commands, "unload", "have a model unloaded", "qwen3-8b", "qwen3-8b --force")
    _takes_model(unload, where="where; without it everywhere")
    unload.add_argument("--force", action="store_true", help="also while it is in use; what runs has some time to end")
    for name, text in (
        ("pin", "keep a model from eviction, until its neuron's daemon ends"),
        ("unpin", "let a model be evicted again; pins of the inventory stay"),
    ):
        _takes_model(_added(commands, name, text, "qwen3-8b --on rack2"), where="where; without it wherever it is")
    for name, text in zip(DRAINS, ("take nothing new; what runs goes on", "take work again"), strict=True):
        drain = _added(commands, name, f"have a neuron, or a gateway, {text}", "rack2", "--gateway gw1")
        drain.add_argument("neuron", nargs="?", metavar="NEURON", help="its name; without it --gateway is meant itself")
    logs = _added(commands, "logs", "show the last decisions of all gateways", "-n 50", "--follow")
    logs.add_argument("--model", metavar="MODEL", help="only those about this model")
    logs.add_argument("-n", type=_rows, default=20, metavar="N", help="how many of the last (default: 20)")
    logs.add_argument("--follow", action="store_true", help="go on with those that come, until Ctrl-C")


def _added(commands: Any, name: str, text: str, *examples: str) -> argparse.ArgumentParser:
    shown = "\n".join(f"  cortex {name} -i inventory/mine {example}" for example in examples)
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        parents=[_asking(is_drain=name in DRAINS)],
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"examples:\n{shown}\n\n{EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made


def _takes_model(parser: argparse.ArgumentParser, where: str = "") -> None:
    parser.add_argument("model", metavar="MODEL", help="its id or an alias")
    if where:
        parser.add_argument("--on", metavar="NEURON", help=where)


def _asking(is_drain: bool) -> argparse.ArgumentParser:
    """What every command takes: which gateways, and the key. The one gateway to be drained needs no name."""
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument(
        "-i",
        "--inventory",
        action="append",
        default=[],
        metavar="INVENTORY",
        help="file, folder or executable; may be given again",
    )
    asking.add_argument(
        "--vault-password-file",
        action="append",
        default=[],
        metavar="FILE",
        help="password of vaulted variables; may be given again",
    )
    which = "a host of the inventory, or a URL in place of an inventory"
    if is_drain:
        text = f"without NEURON the gateway itself, else that to ask: {which}"
        asking.add_argument("--gateway", nargs="?", const="", metavar="HOST|URL", help=text)
    else:
        text = f"the gateway to ask: {which}; without it the first that answers"
        asking.add_argument("--gateway", metavar="HOST|URL", help=text)
    asking.add_argument("--admin-key-file", metavar="FILE", help="a file that holds the admin key")
    asking.add_argument("--json", action="store_true", help="print JSON; logs: a row a line")
    asking.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="for a connection, and for an answer that needs no work (default: 10)",
    )
    return asking


def _rows(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_ROWS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_ROWS}")
    return int(text)
