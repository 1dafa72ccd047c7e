"""The daemon and a hub that shows a repository to who has the token."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from hub_server import hub
from neuron_process import RunningNeuron, running_neuron, until
from scripted_model import write_model

TOKEN = "canary-of-the-hub"


def _files(folder: Path) -> dict[str, bytes]:
    model = write_model(folder)
    return {file.name: file.read_bytes() for file in model.iterdir()} | {"model.safetensors": b"-"}


async def test_the_credential_opens_the_hub_and_is_nowhere_else(tmp_path: Path) -> None:
    """A model of a hidden repository is loaded; no process has the token in its environment or arguments, and no log
    has it (case D4)."""
    (tmp_path / "hub-token").write_text(TOKEN)
    async with hub() as here:
        here.repositories, here.token = {"org/far": _files(tmp_path / "far")}, TOKEN
        environment = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": here.url}
        models = [{"id": name, "source": f"org/{name}", "preload_on": ["here"]} for name in ("far", "none")]
        process_environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path)}
        async with running_neuron(models, None, process_environment, environment=environment) as neuron:
            await neuron.until_status("loaded", "far")
            await until(lambda: _refused(neuron))
            assert {asked[2] for asked in here.asked} == {f"Bearer {TOKEN}"}
            family = [psutil.Process(neuron.process.pid), *neuron.family()]
            assert len(neuron.engines()) == 1
            assert TOKEN not in (neuron.folder / "log").read_text()
            for process in family:
                assert TOKEN not in str(process.environ()) + str(process.cmdline())


async def _refused(neuron: RunningNeuron) -> bool:
    failure = (await neuron.row("none"))["failure"]
    assert TOKEN not in str(failure)
    return failure is not None
