"""Schemathesis over what the services say of themselves: nothing it sends makes either of them fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_of_one import FleetOfOne, running

SHORT = 64  # tokens of context, so that a request without max_tokens ends soon


@pytest.fixture(scope="module")
def short_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfOne]:
    with running(tmp_path_factory.mktemp("short"), context=SHORT) as started:
        yield started


CONTROLS = "/(drain|undrain|models/load|models/unload)$"


@pytest.mark.parametrize(
    ("service", "which"),
    [
        ("gateway", ()),
        ("neuron", (f"--exclude-path-regex={CONTROLS}",)),
        ("neuron", (f"--include-path-regex={CONTROLS}",)),  # last: it drains the neuron
    ],
)
def test_no_request_it_can_think_of_is_a_server_error(
    short_fleet: FleetOfOne, service: str, which: tuple[str, ...], tmp_path: Path
) -> None:
    """No 5xx on generated requests, valid and not, for every documented operation."""
    url = short_fleet.url if service == "gateway" else short_fleet.neuron_url
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        url + "/openapi.json",
        "--checks=not_a_server_error",
        "--max-examples=10",
        "--seed=7",
        "--no-color",
        "--request-timeout=30",
        *which,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=170, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
