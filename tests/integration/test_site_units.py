"""The systemd units that the roles render."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROLES = Path(__file__).parents[2] / "roles"
UNITS = {"neuron": "cortex-neuron.service", "gateway": "cortex-gateway.service"}


def unit(role: str, **variables: Any) -> str:
    """The unit with the roles' defaults; the templates use nothing of Ansible's own."""
    defaults = [yaml.safe_load((ROLES / name / "defaults/main.yml").read_text()) for name in ("cortex_common", role)]
    template = (ROLES / role / "templates" / f"{UNITS[role]}.j2").read_text()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render({**defaults[0], **defaults[1], **variables})


@pytest.mark.parametrize("role", UNITS)
def test_systemd_accepts_the_unit(role: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has no complaint."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / f"cortex-{role}"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    file = tmp_path / UNITS[role]
    file.write_text(unit(role, cortex_bin_dir=str(tmp_path)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], check=False, capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if UNITS[role] in line]
    assert not complaints


@pytest.mark.parametrize("role", UNITS)
def test_systemd_waits_longer_than_the_service_drains(role: str) -> None:
    """Else running requests would be killed at every restart."""
    text = unit(role, **{f"{role}_drain_timeout_s": 120.0})
    [wait_s] = [int(line.partition("=")[2]) for line in text.splitlines() if line.startswith("TimeoutStopSec=")]
    assert wait_s > 120


@pytest.mark.parametrize("role", UNITS)
def test_a_unit_that_keeps_failing_is_given_up(role: str) -> None:
    """A broken service does not restart for ever."""
    lines = unit(role).splitlines()
    assert {"Restart=on-failure", "StartLimitIntervalSec=300"} <= set(lines)
    assert any(line.startswith("StartLimitBurst=") for line in lines)


def test_the_neuron_has_a_home_for_its_caches() -> None:
    """A service user without $HOME puts them in the wrong place."""
    lines = unit("neuron").splitlines()
    assert {"User=neuron", "StateDirectory=neuron", "RuntimeDirectory=neuron"} <= set(lines)
    assert "Environment=HOME=/var/lib/neuron" in lines


def test_the_neuron_is_reloaded_by_a_signal_and_keeps_its_runtime_folder_when_restarted() -> None:
    """A change of the catalogue restarts no model that it does not concern; a drained neuron stays drained."""
    lines = unit("neuron").splitlines()
    assert {"ExecReload=kill -HUP $MAINPID", "RuntimeDirectoryPreserve=restart"} <= set(lines)
    [start] = [line for line in lines if line.startswith("ExecStart=")]
    assert start.endswith("--config /etc/neuron/neuron.toml --models /etc/neuron/models.toml")


def test_the_gateway_is_reloaded_by_a_signal() -> None:
    """A change of its configuration drops no stream."""
    lines = unit("gateway").splitlines()
    assert {"DynamicUser=yes", "ExecReload=kill -HUP $MAINPID"} <= set(lines)


def test_the_gateway_may_read_its_keys_also_on_a_reload() -> None:
    """Its user is a dynamic one, so by a group; a credential would be what it was at the start."""
    lines = unit("gateway").splitlines()
    assert "SupplementaryGroups=cortex" in lines
    assert not [line for line in lines if line.startswith(("LoadCredential", "ReadWritePaths"))]
    [start] = [line for line in lines if line.startswith("ExecStart=")]
    assert start.endswith("--keys /etc/cortex/keys.toml")


def test_the_gateway_may_write_its_access_log() -> None:
    """All else is read-only to it."""
    lines = unit("gateway", gateway_access_log="/var/log/cortex/access.jsonl").splitlines()
    assert {'ReadWritePaths="/var/log/cortex"', "ProtectSystem=strict"} <= set(lines)
