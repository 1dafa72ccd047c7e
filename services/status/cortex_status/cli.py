"""The commands `cortex` and `cortex-status`.

Owns: the subcommands and their options. Does not own: what they do (inventory_check.py, up/, bundle/,
fleet_status/, operate/, doctor.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cortex_status import doctor, inventory_check
from cortex_status.bundle import command as bundle
from cortex_status.fleet_status import command as fleet_status
from cortex_status.operate import commands as operate
from cortex_status.operate import options as operate_options
from cortex_status.up import command as up

EXITS = "Exit codes of inventory check: 0 nothing is wrong, 1 problems were printed, 2 it cannot be read."


def cortex(arguments: Sequence[str] | None = None) -> int:
    """The command `cortex`; its exit code is returned."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "status":
        return fleet_status.main(rest)
    if options.command == "doctor":
        return doctor.run(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "up":
        return up.run(options.inventory, options.vault_password_file)
    if options.command == "bundle":
        return bundle.run(options)
    if options.command in operate.COMMANDS:
        return operate.run(options)
    return inventory_check.run(options.inventory, options.vault_password_file, as_json=options.json)


def cortex_status(arguments: Sequence[str] | None = None) -> int:
    """The command `cortex-status`; its exit code is returned."""
    return fleet_status.main(None if arguments is None else list(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex", description="GPU hosts as one endpoint, from an Ansible inventory.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    source = _source()
    up_text = "start the services of this machine that no service manager runs, until Ctrl-C"
    commands.add_parser("up", parents=[source], help=up_text, description=f"{up_text[0].upper()}{up_text[1:]}.")
    bundle.add_to(commands)
    commands.add_parser("status", add_help=False, help="what runs, beside what is declared; as cortex-status")
    operate_options.add_to(commands)
    doctor_text = "say whether this host's devices can serve a tensor-parallel model; as cortex-neuron doctor"
    commands.add_parser("doctor", add_help=False, help=doctor_text)
    inventories = commands.add_parser("inventory", help="the inventory itself").add_subparsers(
        dest="inventory_command", required=True, metavar="command"
    )
    check_text = "say everything that is wrong with an inventory"
    check = inventories.add_parser("check", parents=[source], help=check_text, description=check_text, epilog=EXITS)
    check.add_argument("--json", action="store_true", help="print the problems and the fleet as JSON")
    return parser


def _source() -> argparse.ArgumentParser:
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument(
        "-i",
        "--inventory",
        action="append",
        required=True,
        metavar="INVENTORY",
        help="file, folder or executable; may be given again",
    )
    source.add_argument(
        "--vault-password-file",
        action="append",
        default=[],
        metavar="FILE",
        help="password of vaulted variables; may be given again",
    )
    return source
