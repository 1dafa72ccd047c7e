"""ansible/monitoring.yml: the files that a host's Prometheus and Grafana read, from the inventory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_playbook import ROOT, Run, run_site

FILES = ROOT / "roles/monitoring/files"
REFUSING = '#!/bin/sh\necho "$@" >> "$0.log"\nexit 1\n'


@dataclass(frozen=True)
class Host:
    """A host that runs Prometheus and Grafana, and the inventory that it is in."""

    folder: Path

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory"

    @property
    def prometheus(self) -> Path:
        return self.folder / "etc/prometheus"

    @property
    def grafana(self) -> Path:
        return self.folder / "etc/grafana"

    def run(self, *arguments: str, as_typed: bool = False) -> Run:
        return run_site(self.inventory, *arguments, playbook="ansible/monitoring.yml", as_typed=as_typed)

    def declare(self, **monitoring: Any) -> None:
        """Two gateways, two neurons, and this host; or without the last where nothing is said of it."""
        content = {
            "gateway": {"hosts": {"gw": {"ansible_host": "192.0.2.10"}, "gw6": {"ansible_host": "2001:db8::1"}}},
            "neurons": {"hosts": {"n1": {"ansible_host": "192.0.2.11", "neuron_port": 14000}, "n2": {}}},
        }
        content["gateway"]["hosts"]["gw6"]["gateway_metrics_listen"] = "192.0.2.99:31315"
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        if monitoring:
            content["monitoring"] = {"hosts": {"watch": {**local, **monitoring}}}
        self.inventory.mkdir(exist_ok=True)
        (self.inventory / "hosts.yml").write_text(json.dumps(content))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """As the packages leave it, but under a folder of the test's; promtool is this machine's, where it has one."""
    made = Host(tmp_path)
    made.prometheus.mkdir(parents=True)
    made.grafana.mkdir()
    made.declare(
        monitoring_prometheus_dir=str(made.prometheus),
        monitoring_prometheus_unit="",
        monitoring_promtool=shutil.which("promtool") or "",
        monitoring_grafana_dir=str(made.grafana),
        monitoring_grafana_dashboards_dir=str(tmp_path / "var/dashboards"),
    )
    return made


def test_prometheus_and_grafana_get_their_files_and_a_second_run_changes_nothing(host: Host) -> None:
    """Targets by job and host, rules and dashboard as they are in the role, and a provider that names its folder."""
    first = host.run("--diff", as_typed=True)
    assert first.returncode == 0, first.output
    assert json.loads((host.prometheus / "cortex.targets.json").read_text()) == [
        {"targets": ["192.0.2.10:31314"], "labels": {"job": "cortex-gateway", "host": "gw"}},
        {"targets": ["192.0.2.99:31315"], "labels": {"job": "cortex-gateway", "host": "gw6"}},
        {"targets": ["192.0.2.11:14000"], "labels": {"job": "cortex-neuron", "host": "n1"}},
        {"targets": ["n2:13131"], "labels": {"job": "cortex-neuron", "host": "n2"}},
    ]
    dashboard = host.folder / "var/dashboards/cortex.json"
    assert (host.prometheus / "cortex.rules.yml").read_text() == (FILES / "cortex.rules.yml").read_text()
    assert dashboard.read_text() == (FILES / "cortex.json").read_text()
    [provider] = yaml.safe_load((host.grafana / "provisioning/dashboards/cortex.yml").read_text())["providers"]
    assert provider["options"]["path"] == str(dashboard)
    second = host.run()
    assert (second.returncode, second.count("changed")) == (0, 0), second.output
    assert "RUNNING HANDLER" not in second.output


def test_the_files_are_what_the_shown_prometheus_yml_reads(host: Host) -> None:
    """promtool follows its names to the rules and the targets."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: .ci/install-tools")
    assert host.run().returncode == 0
    shutil.copy(FILES / "prometheus.yml", host.prometheus)
    checked = subprocess.run(
        [promtool, "check", "config", host.prometheus / "prometheus.yml"], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    assert "rules found" in checked.stdout
    assert "WARNING" not in checked.stdout + checked.stderr


def test_rules_that_promtool_refuses_are_not_put_in_place(host: Host) -> None:
    """Prometheus goes on with those that it has."""
    program = host.folder / "with space"
    program.write_text(REFUSING)
    program.chmod(0o755)
    host.declare(
        monitoring_prometheus_dir=str(host.prometheus), monitoring_promtool=str(program), monitoring_grafana_dir=""
    )
    assert host.run().returncode != 0
    assert (host.folder / "with space.log").read_text().startswith("check rules /")
    assert not (host.prometheus / "cortex.rules.yml").exists()


def test_a_dry_run_touches_nothing(host: Host) -> None:
    """It says what it would put there."""
    run = host.run("--check", "--diff")
    assert run.returncode == 0, run.output
    assert '"job": "cortex-gateway"' in run.output
    assert not [path for path in host.folder.rglob("cortex*") if path.is_file()]


def test_a_host_without_grafana_gets_nothing_of_it(host: Host) -> None:
    """The folder of its package is not made."""
    host.grafana.rmdir()
    run = host.run()
    assert run.returncode == 0, run.output
    assert (host.prometheus / "cortex.targets.json").exists()
    assert not host.grafana.exists()
    assert not (host.folder / "var").exists()


def test_a_host_without_prometheus_is_told_so(host: Host) -> None:
    """The role installs none."""
    host.prometheus.rmdir()
    run = host.run()
    assert run.returncode != 0
    assert f"host watch: monitoring_prometheus_dir: is no folder there, is {host.prometheus}" in run.output


@pytest.mark.parametrize("arguments", [(), ("--limit", "gw"), ("--tags", "gateway")])
def test_a_fleet_without_the_group_is_nothing_to_warn_of(host: Host, arguments: tuple[str, ...]) -> None:
    """site.yml imports the playbook for every fleet."""
    host.declare()
    run = host.run(*arguments)
    assert run.returncode == 0, run.output
    assert "WARNING" not in run.output
    assert run.count("ok") == 0
