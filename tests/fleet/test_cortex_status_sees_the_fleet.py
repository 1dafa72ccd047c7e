"""`cortex-status` before a fleet that really runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fleet_of_one import BIN, FleetOfOne

from cortex_status.fleet_status.document import Document, Verdict


def status(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # The file, not its folder: this fleet's own prefix is in there too, and ansible reads a folder whole.
    command = [str(BIN / "cortex-status"), "-i", str(folder / "hosts.yml"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_running_fleet_is_well_and_shown(fleet: FleetOfOne) -> None:
    """What the real programs answer is the contract, and what the roles rendered is what the inventory declares."""
    done = status(fleet.inventory)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "smollm2" in done.stdout
    assert "All is well and as declared." in done.stdout


def test_the_document_of_a_running_fleet_has_every_answer(fleet: FleetOfOne) -> None:
    """No endpoint is missing, and the preloaded model is loaded on the neuron and in the gateway's catalogue."""
    seen = Document.model_validate_json(status(fleet.inventory, "--json").stdout)
    (gateway,), (neuron,) = seen.observed.gateways, seen.observed.neurons
    assert (seen.verdict, gateway.problems, neuron.problems) == (Verdict.WELL, [], [])
    assert gateway.catalogue is not None
    assert neuron.models is not None
    assert neuron.discovery is not None
    assert gateway.version_answer is not None
    assert set(gateway.version_answer.files) == {"cortex.toml", "models.toml", "keys.toml"}
    assert [row.status for row in neuron.models if row.id == "smollm2"] == ["loaded"]
    assert [entry.status for entry in gateway.catalogue.data] == ["loaded"]
