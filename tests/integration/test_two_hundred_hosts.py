"""A fleet of 200 neurons: judged, rendered and asked rightly. `python -m tests.bench operating` takes the time."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from site_playbook import BIN, ROOT, run_site
from tests.bench import many_hosts, operating_cost

from cortex_contracts.inventory.files import GatewayFile, ModelsFile, parse

COUNT = 200


@dataclass(frozen=True)
class Fleet:
    """Where it is declared, and the port of each of its hosts."""

    inventory: Path
    port: int

    def status(self) -> dict[str, Any]:
        """What cortex-status says of it."""
        command = [BIN / "cortex-status", "-i", self.inventory, "--json"]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
        assert done.stderr == ""
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """As a benchmark has it."""
    port = free_port()
    return Fleet(many_hosts.write_inventory(tmp_path, COUNT, port, BIN), port)


def test_one_mistake_among_two_hundred_hosts_is_found(fleet: Fleet) -> None:
    """One line, of the one host; and nothing is done."""
    (fleet.inventory / "host_vars/gpu123.yml").write_text("neuron_devices: [0, 0]\n")
    run = run_site(fleet.inventory, "--limit", many_hosts.GATEWAY)
    assert run.returncode != 0
    assert "host gpu123: neuron_devices: names a device twice: [0, 0]" in run.output
    assert set(re.findall(r"hosts? gpu\d+", run.output)) == {"host gpu123"}
    assert not (fleet.inventory.parent / "hosts").exists()


def test_a_gateway_is_told_of_two_hundred_neurons(fleet: Fleet, tmp_path: Path) -> None:
    """Each by its own address, and the whole catalogue with its templates filled in."""
    run = run_site(fleet.inventory, "--limit", many_hosts.GATEWAY)
    assert run.returncode == 0, run.output
    files = tmp_path / "hosts" / many_hosts.GATEWAY / "etc/cortex"
    told = parse((files / "cortex.toml").read_text(), "cortex.toml", GatewayFile).neurons
    assert [(neuron.name, neuron.url) for neuron in told] == [
        (many_hosts.name(number), f"http://{many_hosts.address(number)}:{fleet.port}") for number in range(COUNT)
    ]
    models = parse((files / "models.toml").read_text(), "models.toml", ModelsFile).models
    assert [model.source for model in models] == [f"/srv/models/model-{number}" for number in range(many_hosts.MODELS)]


def test_two_hundred_hosts_that_are_as_declared_are_well(fleet: Fleet) -> None:
    """Every answer of every host is there."""
    with operating_cost.answering(COUNT, fleet.port):
        seen = fleet.status()
    assert (seen["verdict"], seen["findings"]) == ("well", [])
    neurons = seen["observed"]["neurons"]
    assert [neuron["discovery"]["hostname"] for neuron in neurons] == [many_hosts.name(n) for n in range(COUNT)]
    assert all(neuron["health"] and neuron["models"] and neuron["version_answer"] for neuron in neurons)


def test_the_one_host_of_two_hundred_that_is_silent_is_named(fleet: Fleet) -> None:
    """By its own finding and the gateway's; the others hide nothing and are not held up."""
    with operating_cost.answering(COUNT - 1, fleet.port):
        seen = fleet.status()
    assert seen["verdict"] == "unwell"
    assert Counter(finding["kind"] for finding in seen["findings"]) == {"host_unreachable": 1, "neuron_unknown": 1}
    assert all(many_hosts.name(COUNT - 1) in finding["message"] or finding["host"] == many_hosts.name(COUNT - 1)
               for finding in seen["findings"])  # fmt: skip
