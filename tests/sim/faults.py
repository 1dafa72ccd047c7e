"""What befalls neurons: death, silence, slowness, drains, crashed models and loads that fail.

Owns: each fault, and that the random ones end. Called by: traffic.py, the tests here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from tests.sim.neuron import Life, SimNeuron
from tests.sim.simulation import Simulation

_LASTS_S = (3.0, 60.0)


class Fault(StrEnum):
    """What happens to a neuron."""

    KILL = "kill"
    HANG = "hang"
    CUT_OFF = "cut_off"
    SLOW = "slow"  # its models answer a hundred times slower
    LAG = "lag"  # the way to it is so slow that polls miss their deadline now and then
    ILL = "ill"  # polls are answered, requests are not
    DRAIN = "drain"
    CRASH = "crash"  # of its loaded models' groups
    FAIL_LOADS = "fail_loads"  # of each model, the next
    PIN = "pin"  # its loaded models, by an operator


def inflict(fault: Fault, neuron: SimNeuron) -> None:
    """Let it happen."""
    _BEGIN[fault](neuron)


def end(fault: Fault, neuron: SimNeuron) -> None:
    """Let it be over; what has no end of its own stays as it is."""
    match fault:
        case Fault.KILL | Fault.HANG | Fault.CUT_OFF:
            if neuron.life is not Life.UP:
                neuron.live(Life.UP)
        case Fault.SLOW:
            neuron.slowness = 1.0
        case Fault.LAG:
            neuron.lag = 1.0
        case Fault.ILL:
            neuron.ill = False
        case Fault.DRAIN:
            neuron.drain(False)
        case Fault.FAIL_LOADS:
            neuron.failing.clear()
        case Fault.PIN:
            _pin(neuron, False)


async def happen(simulation: Simulation, count: int, within_s: float) -> None:
    """So many faults, at random times, places and lengths; returns when all are over."""
    rng, neurons = simulation.rng, list(simulation.neurons.values())

    async def one() -> None:
        await asyncio.sleep(rng.uniform(0, within_s))
        fault, neuron = rng.choice(list(Fault)), rng.choice(neurons)
        inflict(fault, neuron)
        await asyncio.sleep(rng.uniform(*_LASTS_S))
        end(fault, neuron)

    await asyncio.gather(*(one() for _ in range(count)))


def _live(life: Life) -> Callable[[SimNeuron], None]:
    return lambda neuron: neuron.live(life)


def _slow(neuron: SimNeuron) -> None:
    neuron.slowness = 100.0


def _lag(neuron: SimNeuron) -> None:
    neuron.lag = 800.0


def _ill(neuron: SimNeuron) -> None:
    neuron.ill = True


def _crash(neuron: SimNeuron) -> None:
    for model_id in list(neuron.residents):
        neuron.crash(model_id)


def _fail_loads(neuron: SimNeuron) -> None:
    neuron.failing.update(dict.fromkeys(neuron.catalogue, 1))


def _pin(neuron: SimNeuron, pinned: bool = True) -> None:
    for model_id in list(neuron.residents):
        neuron.pin(model_id, pinned)


_BEGIN: dict[Fault, Callable[[SimNeuron], None]] = {
    Fault.KILL: _live(Life.DEAD),
    Fault.HANG: _live(Life.HUNG),
    Fault.CUT_OFF: _live(Life.CUT_OFF),
    Fault.SLOW: _slow,
    Fault.LAG: _lag,
    Fault.ILL: _ill,
    Fault.DRAIN: lambda neuron: neuron.drain(True),
    Fault.CRASH: _crash,
    Fault.FAIL_LOADS: _fail_loads,
    Fault.PIN: _pin,
}
