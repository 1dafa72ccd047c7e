"""nix/gateway.nix and nix/neuron.nix: the units and files of a NixOS host, beside those that the roles render."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from pages import ROOT

from cortex_contracts.inventory.fleet import Gateway, Neuron

Evaluate = Callable[[str], Any]
Unit = dict[str, list[str]]

ACCESS_LOG = "/var/log/cortex/access.jsonl"
DEFAULTS = '{ networking.hostName = "a"; services.cortex-gateway.enable = true; services.cortex-neuron.enable = true; }'


def roles_unit(role: str, **variables: Any) -> tuple[Unit, Unit]:
    """[Unit] and [Service] of the unit that the role renders."""
    source = (ROOT / "roles" / role / "templates" / f"cortex-{role}.service.j2").read_text()
    text = (
        jinja2.Environment(autoescape=False, trim_blocks=True)
        .from_string(source)
        .render(cortex_bin_dir="/bin", **variables)
    )
    sections: dict[str, Unit] = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value.replace('"', ""))
    return sections["Unit"], sections["Service"]


def written(value: Any) -> list[str]:
    """As NixOS writes a directive."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def units(host: Any, name: str) -> tuple[Unit, Unit]:
    """[Unit] and [Service] of a unit of the host."""
    service = host["services"][name]
    about = {
        "Description": service["description"],
        "After": service["after"],
        "Wants": service["wants"],
        "StartLimitIntervalSec": service["startLimitIntervalSec"],
        "StartLimitBurst": service["startLimitBurst"],
    }
    unit = {key: written(value) for key, value in about.items()}
    return unit, {key: written(value) for key, value in service["serviceConfig"].items()}


def command(unit: Unit, name: str) -> str:
    """A command of the unit, less the folder of its program."""
    (line,) = unit[name]
    return line.rpartition("/bin/")[2] if name == "ExecReload" else line.partition("/bin/")[2]


def test_the_gateways_unit_is_the_roles(example: Any) -> None:
    """Every directive, so every one that hardens it, too; but for the keys, which come as a credential."""
    about, service = units(example, "cortex-gateway")
    roles_about, roles_service = roles_unit("gateway", gateway_drain_timeout_s=30.0, gateway_access_log=ACCESS_LOG)
    assert about == roles_about
    assert service.pop("LoadCredential") == ["keys.toml:/run/secrets/cortex-keys.toml"]
    start, reload = command(service, "ExecStart"), command(service, "ExecReload")
    assert (
        start == "cortex-gateway --config /etc/cortex/cortex.toml --models /etc/cortex/models.toml --keys %d/keys.toml"
    )
    assert start.replace("%d", "/etc/cortex") == command(roles_service, "ExecStart")
    assert [reload] == roles_service["ExecReload"]
    assert (service["DynamicUser"], "User" in service) == (["yes"], False)
    differ = {name for name in service | roles_service if service.get(name) != roles_service.get(name)}
    assert differ == {"ExecStart", "ExecReload"}


def test_the_neurons_unit_is_the_roles(example: Any) -> None:
    """Every directive, and the user that owns its folder of models."""
    about, service = units(example, "cortex-neuron")
    roles_about, roles_service = roles_unit("neuron", neuron_drain_timeout_s=30.0)
    assert about == roles_about
    assert service.pop("EnvironmentFile") == ["/run/secrets/neuron.env"]
    service["Environment"] = [f"{k}={v}" for k, v in example["services"]["cortex-neuron"]["environment"].items()]
    assert sorted(service.pop("Environment")) == sorted(roles_service.pop("Environment"))
    assert command(service, "ExecStart") == command(roles_service, "ExecStart")
    assert [command(service, "ExecReload")] == roles_service["ExecReload"]
    assert service["User"] == ["neuron"]
    assert example["users"]["neuron"] == {"isSystemUser": True, "group": "neuron", "home": "/var/lib/neuron"}
    differ = {name for name in service | roles_service if service.get(name) != roles_service.get(name)}
    assert differ == {"ExecStart", "ExecReload"}


def test_both_start_at_boot_and_see_their_files_change(example: Any) -> None:
    """A reload breaks no stream; a neuron takes up a catalogue so, and its settings at the start alone."""
    gateway, neuron = example["services"]["cortex-gateway"], example["services"]["cortex-neuron"]
    assert gateway["wantedBy"] == neuron["wantedBy"] == ["multi-user.target"]
    assert [path.rpartition("-")[2] for path in gateway["reloadTriggers"]] == ["cortex.toml", "models.toml"]
    assert [path.rpartition("-")[2] for path in neuron["reloadTriggers"]] == ["models.toml"]
    assert [path.rpartition("-")[2] for path in neuron["restartTriggers"]] == ["neuron.toml"]
    assert sorted(example["ports"]) == [13131, 31313]


def test_the_access_log_is_made_and_rotated_as_the_role_does(example: Any) -> None:
    """A dynamic user could not make a file that it finds again."""
    assert example["rules"] == [f"f {ACCESS_LOG} 0660 root cortex -"]
    assert "cortex" in example["groups"]
    template = (ROOT / "roles" / "gateway" / "templates" / "logrotate.j2").read_text()
    rotation = example["logrotate"]["cortex-gateway"]
    assert rotation.pop("files") == [ACCESS_LOG]
    for name, value in rotation.items():
        shown = name if value is True else value if name in ("frequency", "postrotate") else f"{name} {value}"
        assert shown in [line.strip() for line in template.splitlines()]


def judged(file: Any, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What building the file would come to: the module's own script, with the program of this environment."""
    program, _, arguments = file["script"].partition(" ")
    (tmp_path / "rendered").write_text(file["text"])
    script = f"{Path(sys.executable).parent / Path(program).name} {arguments}"
    places = {"rendered": str(tmp_path / "rendered"), "out": str(tmp_path / "out")}
    return subprocess.run(
        ["bash", "-e", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", **places},
    )


FILES = ["cortex/cortex.toml", "cortex/models.toml", "neuron/models.toml", "neuron/neuron.toml"]


@pytest.mark.parametrize("name", FILES)
def test_the_programs_accept_the_examples_files(example: Any, name: str, tmp_path: Path) -> None:
    """Judged by the command that the system's build runs, and installed as they are."""
    assert sorted(example["etc"]) == FILES
    ended = judged(example["etc"][name], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out").read_text() == example["etc"][name]["text"]


def test_a_setting_that_the_program_refuses_fails_the_build(evaluate: Evaluate, tmp_path: Path) -> None:
    """Keys that the module does not know are the program's to judge, before the system is switched to."""
    host = evaluate("{ services.cortex-gateway = { enable = true; settings.gateway.wrkers = 2; }; }")
    ended = judged(host["etc"]["cortex/cortex.toml"], tmp_path)
    assert ended.returncode == 2
    assert "gateway.wrkers: it is 2: unknown key" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_defaults_are_the_schemas_and_need_nothing_else(evaluate: Evaluate, tmp_path: Path) -> None:
    """A key that the module repeats must not have a second default; without secrets nothing is loaded."""
    host = evaluate(DEFAULTS)
    gateway = tomllib.loads(host["etc"]["cortex/cortex.toml"]["text"])["gateway"]
    neuron = tomllib.loads(host["etc"]["neuron/neuron.toml"]["text"])["neuron"]
    assert neuron.pop("name") == "a"
    assert (len(gateway), len(neuron)) == (3, 2)
    assert gateway == {key: getattr(Gateway(), key) for key in gateway}
    assert neuron == {key: getattr(Neuron(), key) for key in neuron}
    for name in ("cortex-gateway", "cortex-neuron"):
        given = host["services"][name]["serviceConfig"]
        assert {"LoadCredential", "EnvironmentFile", "SupplementaryGroups", "ReadWritePaths"}.isdisjoint(given)
        assert "--keys" not in given["ExecStart"]
    assert (host["ports"], host["rules"], set(host["groups"])) == ([], [], {"neuron"})


def test_a_host_that_enables_nothing_gets_nothing(evaluate: Evaluate) -> None:
    """Modules are imported by hosts that have no part of the fleet, too."""
    host = evaluate("{ }")
    assert {name: value for name, value in host.items() if value} == {}


@pytest.mark.parametrize(
    ("service", "wrong", "named"),
    [
        ("neuron", 'settings.neuron.port = "13131"', "neuron.port' is not of type `16 bit"),
        ("neuron", "settings.neuron.port = 70000", "neuron.port' is not of type `16 bit"),
        ("neuron", "settings.neuron.drain_timeout_s = 0", "drain_timeout_s' is not of type `positive"),
        ("neuron", "prt = 1", "cortex-neuron.prt' does not exist"),
        ("neuron", 'environmentFile = builtins.toFile "a" "HF_TOKEN=b"', "environmentFile' is not of type"),
        ("gateway", 'keysFile = builtins.toFile "a" ""', "keysFile' is not of type `null or absolute path not in"),
        ("gateway", "keysFile = ./keys.toml", "keysFile' is not of type `null or absolute path not in"),
        ("gateway", "settings.gateway.listen = 31313", "gateway.listen' is not of type `string matching"),
        ("gateway", "settings.gateway.workers = null", "gateway.workers' is not of type"),
        ("gateway", 'models = { id = "m"; }', "models' is not of type `list of"),
        ("gateway", 'enable = "yes"', "enable' is not of type `boolean"),
    ],
)  # fmt: skip
def test_an_option_of_the_wrong_type_is_named(evaluate: Evaluate, service: str, wrong: str, named: str) -> None:
    """While the configuration is evaluated; and a path to a secret may not be one that would copy it into the store."""
    enable = "" if wrong.startswith("enable") else f"services.cortex-{service}.enable = true; "
    with pytest.raises(ValueError, match="error:") as error:
        evaluate(f"{{ {enable}services.cortex-{service}.{wrong}; }}")
    assert named in str(error.value)
