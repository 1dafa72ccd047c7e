"""What the workers of a gateway say of themselves, as one answer."""

from __future__ import annotations

import pytest

from cortex_gateway.api.version import RunsWith, agreed

OLD, NEW = (
    RunsWith(files={"a": "1", "b": "2"}, awaits_restart=["x"]),
    RunsWith(files={"a": "1", "b": "3"}, awaits_restart=[]),
)


@pytest.mark.parametrize(
    ("said", "workers", "files", "awaits_restart"),
    [
        ([OLD], 1, {"a": "1", "b": "2"}, ["x"]),
        ([OLD, OLD], 2, {"a": "1", "b": "2"}, ["x"]),
        ([OLD, NEW], 2, {"a": "1", "b": None}, ["x"]),
        ([NEW, NEW], 3, {"a": None, "b": None}, []),  # one of three has not said anything yet
        ([NEW, RunsWith(files={"a": "1"}, awaits_restart=["y"])], 2, {"a": "1", "b": None}, ["y"]),
    ],
)
def test_a_digest_holds_where_every_worker_has_it(
    said: list[RunsWith], workers: int, files: dict[str, str | None], awaits_restart: list[str]
) -> None:
    """One that is silent or differs makes it unknown; one that awaits a restart makes all await it."""
    found = agreed(said, workers)
    assert (found.files, found.awaits_restart) == (files, awaits_restart)
