"""The failover drill as a measurement: tests/fleet/failover_drill.py, with more time before the break."""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
_CALM_S = 5.0


def measure() -> dict[str, float]:
    """Start the fleet, break it, repair it, stop it."""
    sys.path[:0] = [str(_TESTS / folder) for folder in ("fleet", "integration", "unit/neuron")]
    failover_drill = importlib.import_module("failover_drill")
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, float] = asyncio.run(failover_drill.drill(Path(folder), calm_s=_CALM_S)).figures()
    return figures
