"""Which devices a model is loaded on. Pure. Called by: residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cortex_contracts.wire.errors import InvalidParameter, NoCapacity


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
