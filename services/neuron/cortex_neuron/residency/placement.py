"""Which device a model is loaded on. Pure. Called by: residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cortex_contracts.wire.errors import InvalidParameter, NoCapacity


def choose(
    need_mb: int, free_mb: Mapping[int, int], reserved_mb: Mapping[int, int], asked: Sequence[int] | None
) -> int:
    """The device with the most room: free memory less what other loads have been promised.

    `asked` restricts the choice. Raises InvalidParameter for a device that is not there, NoCapacity with the figures.
    """
    strange = sorted(set(asked or ()) - set(free_mb))
    if strange:
        raise InvalidParameter(f"devices: {strange} are not here; there are {sorted(free_mb)}", param="devices")
    room = {index: free_mb[index] - reserved_mb.get(index, 0) for index in asked or free_mb}
    if not room:
        raise NoCapacity("this neuron has no device")
    best = max(room, key=lambda index: (room[index], -index))
    if room[best] < need_mb:
        raise NoCapacity(f"the model needs {need_mb} MB; free are " + ", ".join(_words(room)))
    return best


def _words(room: Mapping[int, int]) -> list[str]:
    return [f"{room[index]} MB on device {index}" for index in sorted(room)]
