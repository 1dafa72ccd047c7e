"""The command line of `cortex-neuron doctor`, and the order that it gives.

Owns: options, help, exit codes, and which options contradict each other. Imports little: the children of the fork
server import the command line again. Called by: cortex_neuron.cli, doctor.command.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any, Literal

HEALTHY, UNHEALTHY, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
EXITS = """\
exit codes:
  0    all that was looked at works
  1    something does not; the last line says what, and what to do
  2    the command line or the configuration cannot be used
  130  interrupted"""
EXAMPLES = """\
examples:
  cortex doctor                           all GPUs of this host, else its CPU
  cortex doctor --tp 2 --devices 0,1
  cortex doctor --tp 2 --devices cpu
  cortex doctor --config /etc/neuron/neuron.toml --json"""
_MOST_RANKS, _MOST_MB, _DEFAULT_TIMEOUT_S = 64, 16384, 60.0

DeviceNames = Literal["all", "cpu"] | tuple[int, ...]
_NAMED: dict[str, DeviceNames] = {"all": "all", "cpu": "cpu"}


class OrderInvalid(Exception):
    """Options that are right one by one contradict each other; the message names them."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be examined. None: `num_ranks` is one a device, `sizes_mb` what suits the devices."""

    devices: DeviceNames
    num_ranks: int | None
    sizes_mb: tuple[int, ...] | None
    timeout_s: float


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    text = "say whether this host's devices can serve a tensor-parallel model"
    doctor: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help=text,
        description=f"{text[0].upper()}{text[1:]}: driver, torch, handshake, bandwidth.",
        epilog=f"{EXAMPLES}\n\n{EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--tp", type=_ranks, metavar="N", help="how many ranks (default: one for each device)")
    doctor.add_argument(
        "--devices", type=_devices, metavar="LIST", help="GPUs as 0,1, or all, or cpu (default: all GPUs, else cpu)"
    )
    doctor.add_argument(
        "--size-mb", type=_sizes, metavar="LIST", help="sizes to all-reduce (default: 1,16,256; on a CPU 1,16)"
    )
    doctor.add_argument(
        "--timeout-s",
        type=_seconds,
        default=_DEFAULT_TIMEOUT_S,
        metavar="S",
        help="for the handshake, for the sanity check, and for each size (default: 60)",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON document in place of lines")
    doctor.add_argument(
        "--config",
        default=argparse.SUPPRESS,  # it may stand before the command, too
        metavar="FILE",
        help="a neuron.toml: its environment and, without --devices, its devices",
    )


def order(options: argparse.Namespace, configured: DeviceNames = "all") -> Order:
    """What the options come to. `configured` is what the neuron's file says of devices. Raises OrderInvalid."""
    devices: DeviceNames = options.devices or configured
    if isinstance(devices, tuple) and options.tp is not None and options.tp > len(devices):
        raise OrderInvalid(f"argument --tp: {options.tp} ranks need {options.tp} devices, --devices has {len(devices)}")
    return Order(devices, options.tp, options.size_mb, options.timeout_s)


def _ranks(text: str) -> int:
    return _number(text, _MOST_RANKS)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_number(part, _MOST_MB) for part in text.split(","))


def _number(text: str, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
    return int(text)


def _devices(text: str) -> DeviceNames:
    if text in _NAMED:
        return _NAMED[text]
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor cpu nor a list of GPU indexes, such as 0,1")
    if len(set(map(int, parts))) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} names a GPU twice: each rank has one of its own")
    return tuple(map(int, parts))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
