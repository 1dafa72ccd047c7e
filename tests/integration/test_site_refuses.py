"""What site.yml does not do: touch a host while the inventory is wrong, or put a file where its program refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from site_playbook import run_site, write_inventory

CATALOGUE = [{"id": "plain", "source": "org/plain", "vram_mb": 1}]


def hosts(prefix: Path, **variables: Any) -> dict[str, Any]:
    return {"gw": {"cortex_prefix": str(prefix)}, "n1": {"cortex_prefix": str(prefix), **variables}}


@pytest.mark.parametrize("arguments", [(), ("--limit", "gw"), ("--tags", "gateway")])
def test_a_wrong_inventory_stops_before_any_host_is_touched(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """All problems are printed, one a line; neither --limit nor --tags gets around the check."""
    wrong = hosts(tmp_path / "host", neuron_prot=1, neuron_port=70000)
    catalogue = [{"id": "plain", "source": "x", "vram_mb": 1, "pinned_on": ["n11"]}]
    run = run_site(write_inventory(tmp_path / "inventory", wrong, {"cortex_models": catalogue}), *arguments)
    assert run.returncode != 0
    lines = [line.strip().removeprefix("- ").strip("'\"") for line in run.output.splitlines()]
    assert "host n1: neuron_prot: no such variable; did you mean neuron_port?" in lines
    assert "host n1: neuron_port: should be less than or equal to 65535, is 70000" in lines
    assert any("pinned_on" in line and "did you mean n1?" in line for line in lines)
    assert not (tmp_path / "host").exists()


def test_a_host_without_the_program_is_told_so(tmp_path: Path) -> None:
    """The message names host, variable and folder."""
    everywhere = {"cortex_models": CATALOGUE, "cortex_bin_dir": str(tmp_path)}
    run = run_site(write_inventory(tmp_path / "inventory", hosts(tmp_path / "host"), everywhere))
    assert run.returncode != 0
    assert f"host n1: cortex_bin_dir: has no program cortex-neuron, is {tmp_path}" in " ".join(run.output.split())


def test_a_file_that_its_program_refuses_is_not_put_in_place(tmp_path: Path) -> None:
    """`validate:` asks the program itself, with --check-config and the file."""
    programs = tmp_path / "with space"
    programs.mkdir()
    for name in ("cortex-neuron", "cortex-gateway"):
        (programs / name).write_text('#!/bin/sh\necho "$@" >> "$0.log"\nexit 1\n')
        (programs / name).chmod(0o755)
    everywhere = {"cortex_models": CATALOGUE, "cortex_bin_dir": str(programs)}
    inventory = write_inventory(tmp_path / "inventory", hosts(tmp_path / "host"), everywhere)
    assert run_site(inventory).returncode != 0
    assert (programs / "cortex-neuron.log").read_text().startswith("--check-config /")
    assert not (tmp_path / "host/etc/neuron/neuron.toml").exists()


def test_systemd_is_not_assumed_where_it_does_not_run(tmp_path: Path) -> None:
    """The default service manager on a host without it is an error that says what to set."""
    if Path("/run/systemd/system").exists():
        pytest.skip("this machine runs systemd")
    systemd = {"cortex_prefix": "", "cortex_service_manager": "systemd"}
    inventory = write_inventory(tmp_path / "inventory", {"gw": systemd, "n1": systemd}, {"cortex_models": CATALOGUE})
    run = run_site(inventory, "--check")
    assert run.returncode != 0
    assert "host n1: cortex_service_manager: is systemd, but systemd does not run this host" in run.output
