"""One fleet for every test here that does not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet_of_one import FleetOfOne, running


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfOne]:
    """A running fleet of one."""
    with running(tmp_path_factory.mktemp("fleet")) as started:
        yield started
