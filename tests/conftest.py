"""What every test may need: a port nobody listens on."""

from __future__ import annotations

import free_ports
import pytest


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    return free_ports.free_port()
