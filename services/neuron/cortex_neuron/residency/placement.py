"""Which devices a model is loaded on. Pure. Called by: residency.

Owns: the choice among devices, and the order that comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import CudaUnavailable, InvalidParameter, NoCapacity
from cortex_neuron.hardware.devices import Hardware
from cortex_neuron.residency import states
from cortex_neuron.residency.harness import Order
from cortex_neuron.residency.resident import Resident


def order(
    model: Model,
    asked: Sequence[int] | None,
    hardware: Hardware,
    free_mb: Mapping[int, int],
    residents: Iterable[Resident],
    held_mb: int = 0,
) -> Order:
    """The model on devices of this host, beside loads under way. `held_mb` of a CPU's memory it has already, asleep.

    Raises CudaUnavailable, and what `choose` raises.
    """
    if hardware.problem is not None:
        raise CudaUnavailable(hardware.problem)
    reserved: Counter[int] = Counter()
    for other in residents:
        if other.devices and other.status in states.BUSY:
            for index in other.devices:
                reserved[index] += -(-other.model.host_mb // len(other.devices))
    ranks, on_cpu = model.span, hardware.kind == "cpu"
    # Ranks on a CPU are processes that share the one memory.
    span = 1 if on_cpu else ranks
    need_mb = max(-(-model.host_mb // span), model.min_device_vram_mb) - (held_mb if on_cpu else 0)
    chosen = choose(need_mb, free_mb, reserved, asked, span)
    names = ("cpu",) * ranks if on_cpu else tuple(f"cuda:{index}" for index in chosen)
    return Order(model, chosen, names, tuple(each for each in hardware.devices if each.index in chosen))


def choose(
    need_mb: int,
    free_mb: Mapping[int, int],
    reserved_mb: Mapping[int, int],
    asked: Sequence[int] | None,
    count: int = 1,
) -> tuple[int, ...]:
    """The `count` devices with the most room, in order of index: free memory less what other loads have been promised.

    Each must have `need_mb`; they need not be alike. `asked` restricts the choice. Raises InvalidParameter for a device
    that is not there or too few of them, NoCapacity with the figures.
    """
    strange = sorted(set(asked or ()) - set(free_mb))
    if strange:
        raise InvalidParameter(f"devices: {strange} are not here; there are {sorted(free_mb)}", param="devices")
    if asked is not None and len(set(asked)) < count:
        raise InvalidParameter(f"devices: {sorted(set(asked))} are too few; the model needs {count}", param="devices")
    room = {index: free_mb[index] - reserved_mb.get(index, 0) for index in asked or free_mb}
    if not room:
        raise NoCapacity("this neuron has no device")
    if len(room) < count:
        raise NoCapacity(f"the model needs {count} devices; this neuron has {len(room)}")
    best = sorted(room, key=lambda index: (-room[index], index))[:count]
    if room[best[-1]] < need_mb:
        each = "" if count == 1 else f" on each of {count} devices"
        raise NoCapacity(f"the model needs {need_mb} MB{each}; free are " + ", ".join(_words(room)))
    return tuple(sorted(best))


def _words(room: Mapping[int, int]) -> list[str]:
    return [f"{room[index]} MB on device {index}" for index in sorted(room)]
