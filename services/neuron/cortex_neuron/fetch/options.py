"""The command line of `cortex-neuron fetch`.

Owns: options, help, exit codes. Imports little, as the command line. Called by: cortex_neuron.cli, fetch.command.
"""

from __future__ import annotations

import argparse
from typing import Any

THERE, LACKING, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
EXITS = """\
exit codes:
  0    the files of every model are here
  1    those of some are not; each says why
  2    the configuration or the command line cannot be used, or there is no such model
  130  interrupted; the files that are whole stay, and the next run goes on with the others"""
EXAMPLES = """\
examples:
  cortex-neuron fetch llama-3.3-70b qwen3-8b
  cortex-neuron fetch --all --dry-run
  HF_ENDPOINT=http://mirror.example cortex-neuron fetch --all --json"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    text = "fetch the files of models, as the daemon would when they are asked for"
    fetch: argparse.ArgumentParser = commands.add_parser(
        "fetch",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. What is on this host already is not fetched again.",
        epilog=f"{EXAMPLES}\n\n{EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument("names", nargs="*", metavar="MODEL", help="a model of the catalogue, by id or alias")
    fetch.add_argument("--all", action="store_true", help="every model of the catalogue")
    fetch.add_argument("--dry-run", action="store_true", help="say what is not here, and ask nobody for it")
    fetch.add_argument("--json", action="store_true", help="print one JSON document in place of lines")
    fetch.add_argument(
        "--config",
        default=argparse.SUPPRESS,  # it may stand before the command, too
        metavar="FILE",
        help="the neuron's file: its environment",
    )
    fetch.add_argument("--models", default=argparse.SUPPRESS, metavar="FILE", help="the catalogue")
