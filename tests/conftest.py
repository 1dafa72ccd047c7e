"""What every test may need: a port nobody listens on."""

from __future__ import annotations

import os

if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton, where it is installed, reads it when it is first imported

import free_ports
import pytest


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    return free_ports.free_port()
