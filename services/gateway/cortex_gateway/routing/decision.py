"""What routing can decide. Pure values; loading and forwarding carry them out."""

from __future__ import annotations

from dataclasses import dataclass

from cortex_contracts.wire.errors import CortexError
from cortex_contracts.wire.fleet import DecisionKind
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

    A model that is itself what goes is recycled: nobody is evicted. `wakes`: it sleeps there, on these devices.
    """

    neuron: NeuronView
    devices: tuple[int, ...] | None = None
    evict: tuple[str, ...] = ()
    wakes: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """It can be served nowhere now."""

    error: CortexError


Decision = Forward | WaitForLoad | Load | Reject

# Kind, neuron, devices, victims, reason. No view of a neuron: it would be kept as long as the description.
Described = tuple[DecisionKind, str | None, tuple[int, ...] | None, tuple[str, ...], str]


def described(decision: Decision, model_id: str) -> Described:
    """A decision about a model in the words of the operator API."""
    match decision:
        case Forward(neuron=neuron):
            return "forward", neuron.name, None, (), "it is loaded there"
        case WaitForLoad(neuron=neuron):
            return "wait", neuron.name, None, (), "it is being loaded there"
        case Load(neuron=neuron, devices=devices, evict=evict) if model_id in evict:
            return "load", neuron.name, devices, (), "it is loaded anew after many evictions there"
        case Load(neuron=neuron, devices=devices, evict=evict, wakes=wakes):
            where = "it sleeps there, and has room" if wakes else "it has room there"
            reason = where + (" once others are evicted" if evict else "")
            return "load", neuron.name, devices, evict, reason
        case Reject(error=error):
            return "reject", None, None, (), error.message
