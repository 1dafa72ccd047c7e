"""Whose turn it is where requests wait: class, then arrival, and nobody for ever."""

from __future__ import annotations

from cortex_contracts.inventory.clients import PriorityClass
from cortex_neuron.protocol.priority import turn

Waiting = tuple[PriorityClass, float]


def _in_turn(*waiting: Waiting) -> list[Waiting]:
    return sorted(waiting, key=lambda each: turn(*each))


def test_the_higher_class_is_served_first_and_within_one_who_came_first() -> None:
    """All came within a few seconds."""
    came: list[Waiting] = [("low", 0), ("normal", 1), ("high", 3), ("low", 2), ("high", 4), ("normal", 5)]
    assert _in_turn(*came) == [("high", 3), ("high", 4), ("normal", 1), ("normal", 5), ("low", 0), ("low", 2)]


def test_who_has_waited_long_enough_is_overtaken_by_nobody_any_more() -> None:
    """A low request waits for what comes 30 s after it (normal) or 60 s (high), whatever else comes and how much."""
    assert _in_turn(("low", 0), ("normal", 29), ("normal", 31))[1] == ("low", 0)
    assert _in_turn(("low", 0), ("high", 59), ("high", 61))[1] == ("low", 0)
    flood: list[Waiting] = [("high", second / 10) for second in range(10_000)]
    assert _in_turn(("low", 0), *flood).index(("low", 0)) <= 601
