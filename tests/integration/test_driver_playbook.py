"""ansible/driver.yml by the real ansible-playbook, where there is no systemd: nccl.conf, and hands off all else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from site_playbook import Run, run_site

OURS = "# Rendered from the inventory by the role nvidia_nccl. Change it there:"


def run(folder: Path, *arguments: str, sysfs: Path | None = None, as_typed: bool = False, **variables: Any) -> Run:
    """The playbook over one host, which is this machine below `folder`."""
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "cortex_prefix": str(folder),
        "cortex_service_manager": "none",
        "_nvidia_sysfs": str(sysfs or folder / "sys"),
    }
    content = {"gateway": {"hosts": {}}, "neurons": {"hosts": {"n1": host | variables}}}
    folder.mkdir(exist_ok=True)
    (folder / "hosts.yml").write_text(json.dumps(content))
    return run_site(folder / "hosts.yml", *arguments, playbook="ansible/driver.yml", as_typed=as_typed)


def test_nccl_conf_is_what_the_inventory_says_and_goes_with_it(tmp_path: Path) -> None:
    """One line a variable; a second run changes nothing; no variables, no file."""
    conf = {"NCCL_SOCKET_IFNAME": "=eth0", "NCCL_IB_HCA": "mlx5_0:1"}
    file = tmp_path / "etc/nccl.conf"
    assert run(tmp_path, as_typed=True, nvidia_nccl_conf=conf).returncode == 0
    head, *lines = file.read_text().splitlines()
    assert head.startswith(OURS)
    assert lines == ["NCCL_IB_HCA=mlx5_0:1", "NCCL_SOCKET_IFNAME==eth0"]
    assert file.stat().st_mode & 0o777 == 0o644
    again = run(tmp_path, nvidia_nccl_conf=conf)
    assert (again.returncode, again.count("changed")) == (0, 0), again.output
    assert run(tmp_path).returncode == 0
    assert not file.exists()


def test_an_nccl_conf_of_somebody_else_stays(tmp_path: Path) -> None:
    """Where the inventory says nothing of NCCL, nothing is meant; where it does, what was there is kept beside it."""
    file = tmp_path / "etc/nccl.conf"
    file.parent.mkdir()
    file.write_text("NCCL_DEBUG=WARN\n")
    assert run(tmp_path).count("changed") == 0
    assert file.read_text() == "NCCL_DEBUG=WARN\n"
    assert run(tmp_path, nvidia_nccl_conf={"NCCL_DEBUG": "INFO"}).returncode == 0
    [kept] = file.parent.glob("nccl.conf.*~")
    assert kept.read_text() == "NCCL_DEBUG=WARN\n"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A /sys with one GPU, and nouveau."""
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    return tmp_path / "sys"


@pytest.mark.parametrize(
    "variables", [{}, {"cortex_service_manager": "systemd", "nvidia_driver_manage": "never"},
                  {"cortex_service_manager": "systemd", "neuron_devices": "cpu"}]
)  # fmt: skip
def test_no_driver_comes_where_none_is_wanted(tmp_path: Path, sysfs: Path, variables: dict[str, Any]) -> None:
    """`make up` on a machine with a GPU installs nothing on it; nor does a host get one that computes on its CPU."""
    done = run(tmp_path, "--check", sysfs=sysfs, **variables)
    assert done.returncode == 0, done.output
    assert done.count("changed") == 0


def test_a_driver_that_somebody_else_installed_stays(tmp_path: Path, sysfs: Path) -> None:
    """It is said that it is there; to replace it is `always`."""
    (sysfs / "module/nvidia").mkdir()
    (sysfs / "module/nvidia/version").write_text("535.247.01\n")
    done = run(tmp_path, "--check", sysfs=sysfs, cortex_service_manager="systemd")
    assert done.returncode == 0, done.output
    assert done.count("changed") == 0
    assert "runs a driver 535.247.01 that was not installed from here" in " ".join(done.output.split())


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="asks this machine's dpkg")
def test_secure_boot_without_a_key_is_told_before_anything_is_changed(tmp_path: Path, sysfs: Path) -> None:
    """The kernel would refuse the modules after minutes of compiling; what to do is said instead. `ignore` goes on."""
    variable = sysfs / "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\0\0\0\x01")
    done = run(tmp_path, "--check", sysfs=sysfs, cortex_service_manager="systemd")
    assert done.returncode != 0
    assert done.count("changed") == 0
    assert "host n1: Secure Boot is on, and no key that dkms signs with is enrolled" in " ".join(done.output.split())
    variable.write_bytes(b"\x06\0\0\0\0")
    done = run(
        tmp_path, "--check", sysfs=sysfs, cortex_service_manager="systemd", nvidia_driver_repository="file:///none/"
    )
    assert "Secure Boot is on" not in done.output
