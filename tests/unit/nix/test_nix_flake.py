"""flake.nix and flake.lock, against the stub of nixpkgs in tests/nix: what is there, on which systems."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

Nix = Callable[..., "subprocess.CompletedProcess[str]"]

SYSTEMS = {"x86_64-linux", "aarch64-linux"}
PROGRAMS = {"cortex", "cortex-gateway", "cortex-neuron"}
OUTPUTS = {
    "packages": PROGRAMS | {"default"},
    "apps": PROGRAMS | {"cortex-status", "default"},
    "devShells": {"default"},
    "checks": PROGRAMS | {"example"},
}
EXTRAS = {"cortex": ["operator"], "cortex-gateway": ["gateway", "otel"], "cortex-neuron": ["neuron", "otel"]}
# The revision was not fetched by us: others have locked it, and their locks give this hash.
VERIFIED = {
    "lastModified": 1783224372,
    "narHash": "sha256-8i/87eeoqiGE4yOTjwSA3Eh/ziJRQEmd/unYU+K27sk=",
    "owner": "NixOS",
    "repo": "nixpkgs",
    "rev": "d407951447dcd00442e97087bf374aad70c04cea",
    "type": "github",
}


def stubbed(flake: Path) -> tuple[str, ...]:
    """Arguments by which nixpkgs is the stub."""
    return "--override-input", "nixpkgs", f"path:{flake}/tests/nix/stub", "--no-write-lock-file"


@pytest.fixture(scope="module")
def evaluated(nix: Nix, flake: Path) -> Callable[[str, str], Any]:
    """An output, after a Nix function over it that leaves what JSON has."""

    def output(name: str, function: str) -> Any:
        ended = nix("eval", "--json", *stubbed(flake), "--apply", function, f"path:{flake}#{name}")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return output


def test_every_output_is_there_on_both_systems(nix: Nix, flake: Path) -> None:
    """nix evaluates each down to its derivation, whose inputs are evaluated with it."""
    ended = nix("flake", "show", "--json", *stubbed(flake), f"path:{flake}")
    assert ended.returncode == 0, ended.stderr
    shown = json.loads(ended.stdout)
    for output, names in OUTPUTS.items():
        assert {system: set(found) for system, found in shown[output].items()} == dict.fromkeys(SYSTEMS, names), output
        kind = "app" if output == "apps" else "derivation"
        assert {found["type"] for each in shown[output].values() for found in each.values()} == {kind}
    assert set(shown["formatter"]) == SYSTEMS
    assert set(shown["nixosModules"]) == {"gateway", "neuron"}


def test_nix_accepts_the_flake(nix: Nix, flake: Path) -> None:
    """Its own check of names and shapes; nothing is built, for there is nothing to build it from."""
    ended = nix("flake", "check", "--no-build", *stubbed(flake), f"path:{flake}")
    assert ended.returncode == 0, ended.stderr


def test_each_app_is_a_program_of_the_package(evaluated: Callable[[str, str], Any]) -> None:
    """A program that pyproject.toml does not install would be found out by its first user."""
    installed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    for system in SYSTEMS:
        programs = evaluated(f"apps.{system}", "builtins.mapAttrs (name: app: app.program)")
        names = {name: program.rpartition("/bin/")[2] for name, program in programs.items()}
        assert names == {**{name: name for name in installed}, "default": "cortex"}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_package_depends_on_what_pyproject_says(evaluated: Callable[[str, str], Any], program: str) -> None:
    """On all of its extras. A name that nixpkgs is not known to have fails here: the stub has a list."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [
        each for extra in EXTRAS[program] for each in project["optional-dependencies"][extra]
    ]
    expected = [re.split(r"[^\w-]", each)[0].replace("_", "-") for each in requirements]
    names = "package: { names = map (each: each.name) package.dependencies; inherit (package) name; }"
    found = evaluated(f"packages.x86_64-linux.{program}", names)
    assert found == {"names": expected, "name": f"{program}-{project['version']}"}


def test_the_shell_has_what_make_and_the_tests_call(evaluated: Callable[[str, str], Any]) -> None:
    """All that .ci/install-tools would install, less nix, by which one is there; and where wheels find libraries."""
    for system in SYSTEMS:
        shell = evaluated(
            f"devShells.{system}.default",
            "shell: { names = map (each: each.name) shell.packages; inherit (shell) LD_LIBRARY_PATH; }",
        )
        assert set(shell["names"]) >= {"python3", "gnumake", "git", "curl", "openssh", "prometheus-cli", "chromium"}
        assert shell["LD_LIBRARY_PATH"].count(":") == 2


def test_the_check_of_an_example_has_every_file_we_render(evaluated: Callable[[str, str], Any]) -> None:
    """`nix flake check` on a machine that can build has the programs judge these."""
    for system in SYSTEMS:
        entries = json.loads(evaluated(f"checks.{system}.example", "check: check.entries"))
        assert set(entries) == {"cortex/cortex.toml", "cortex/models.toml", "neuron/models.toml", "neuron/neuron.toml"}


def test_the_lock_is_the_one_that_was_verified(nix: Nix, flake: Path) -> None:
    """And it is all that flake.nix asks for: nix would otherwise write another."""
    lock = json.loads((ROOT / "flake.lock").read_text())
    assert set(lock["nodes"]) == {"root", "nixpkgs"}
    assert lock["nodes"]["nixpkgs"]["locked"] == VERIFIED
    ended = nix("flake", "metadata", "--json", "--no-update-lock-file", f"path:{flake}")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["locks"] == lock
