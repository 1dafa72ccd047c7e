"""Running services that several test files share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from neuron_process import DEMO_MODEL, REAL, RunningNeuron, running_neuron
from scripted_model import write_model


@pytest.fixture(scope="session")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for scripted_rank, with nothing special about it."""
    return write_model(tmp_path_factory.mktemp("models") / "echo")


@pytest_asyncio.fixture(scope="session")
async def scripted(echo_model: Path) -> AsyncIterator[RunningNeuron]:
    """A neuron with a scripted engine and the model `echo` loaded, for tests that break nothing."""
    models = [{"id": "echo", "source": str(echo_model), "aliases": ["org/echo"], "preload_on": ["here"]}]
    async with running_neuron(models, max_sequences=4, queue_limit=4) as neuron:
        await neuron.until_status("loaded")
        yield neuron


@pytest_asyncio.fixture(scope="session")
async def real_neuron() -> AsyncIterator[RunningNeuron]:
    """A neuron with the real engine and the demo model loaded."""
    assert DEMO_MODEL.exists(), f"{DEMO_MODEL} is missing: run make demo-model"
    models = [{"id": "smollm2", "source": str(DEMO_MODEL), "vram_mb": 2600, "preload_on": ["here"]}]
    async with running_neuron(models, REAL) as neuron:
        await neuron.until_status("loaded", "smollm2", timeout_s=120)
        yield neuron
