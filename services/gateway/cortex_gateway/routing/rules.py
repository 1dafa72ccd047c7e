"""What routing knows besides the fleet: what holds for all requests, and what one of them brings along.

Owns: the two values. Called by: state.py, forwarding (make them), the rest of this package (reads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from cortex_contracts.inventory.fleet import Model
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.routing.prefixes import PrefixMemory


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The catalogue, our own requests, the eviction strategy, and what experience has taught. One until a reload."""

    catalogue: Mapping[str, Model]
    outstanding: Outstanding = field(default_factory=Outstanding)
    strategy: str = "lru"
    circuits: Circuits = field(default_factory=Circuits)
    prefixes: PrefixMemory = field(default_factory=PrefixMemory)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `avoid` names neurons that have just failed it, `draw` is its lot where replicas are many."""

    now: float = 0.0  # by the circuits' clock
    avoid: AbstractSet[str] = frozenset()
    draw: int = 0
    prompt: Sequence[int] = ()  # prefixes.beginnings
