"""What routing can decide. Pure values; loading and forwarding carry them out."""

from __future__ import annotations

from dataclasses import dataclass

from cortex_contracts.wire.errors import CortexError
from cortex_gateway.fleet.snapshot import NeuronView


@dataclass(frozen=True, slots=True)
class Forward:
    """The model is loaded there: send the request."""

    neuron: NeuronView


@dataclass(frozen=True, slots=True)
class WaitForLoad:
    """Somebody has it loaded there already: wait until it is."""

    neuron: NeuronView


@dataclass(frozen=True, slots=True)
class Load:
    """Unload `evict` there, then load the model on `devices` (None leaves the choice to the neuron).

    A model that is itself what goes is recycled: nobody is evicted.
    """

    neuron: NeuronView
    devices: tuple[int, ...] | None = None
    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """It can be served nowhere now."""

    error: CortexError


Decision = Forward | WaitForLoad | Load | Reject
