"""What a gateway hands to the process that takes its place, and what that says back: the wire between two releases.

Owns: the shapes. Does not own: starting the successor (successor.py) or taking over (predecessor.py). Each side may be
older than the other: unknown keys and unknown words are passed over, and what changes otherwise changes VERSION.
"""

from __future__ import annotations

import msgspec

VARIABLE = "CORTEX_GATEWAY_ESTATE"  # of the environment; holds an Estate as JSON
VERSION = 1


class Estate(msgspec.Struct, frozen=True):
    """Open descriptors that the successor has under the same numbers, and what an operator has said meanwhile."""

    v: int
    tell: int  # the end of a pipe, for Words, one a line
    sockets: dict[str, list[int]]  # listening ones, by the address as the configuration writes it
    draining: bool = False


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The successor runs, as process `pid`, and is nobody's child any more."""

    pid: int


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """It serves: the predecessor may leave."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It will not serve."""

    reason: str


Word = Begun | Serving | Refused
