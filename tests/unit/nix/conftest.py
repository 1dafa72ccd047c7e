"""The program `nix`, as these tests call it: no daemon, no network, a store in a temporary folder, nothing built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

Nix = Callable[..., "subprocess.CompletedProcess[str]"]
Evaluate = Callable[[str], Any]

CONFIGURATION = """\
experimental-features = nix-command flakes
build-users-group =
substitute = false
flake-registry =
download-attempts = 1
"""
NOWHERE = "http://127.0.0.1:9"  # nothing that nix may want to fetch leaves the machine

FLAKE = ("flake.nix", "flake.lock", "LICENSE", "README.md", "pyproject.toml", "nix", "services", "tests/nix")


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """Runs it; where it is not installed, only continuous integration insists."""
    found = shutil.which("nix")
    if found is None:
        missing = "nix is not installed: .ci/install-tools, or Debian's package nix-bin"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    home = tmp_path_factory.mktemp("nix")
    places = {f"NIX_{name}_DIR": str(home / name.lower()) for name in ("STORE", "STATE", "LOG", "CONF", "DATA")}
    places |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "NIX_REMOTE": "local"}
    places |= {"http_proxy": NOWHERE, "https_proxy": NOWHERE}
    environment = {"PATH": os.environ["PATH"], "NIX_CONFIG": CONFIGURATION, **places}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120, env=environment)

    return run


@pytest.fixture(scope="session")
def evaluate(nix: Nix) -> Evaluate:
    """A host's configuration, a Nix expression, to what tests/nix/host.nix makes of it; nix's error is a ValueError."""

    def host(configuration: str) -> Any:
        expression = f"import {ROOT}/tests/nix/host.nix ({configuration})"
        ended = nix("eval", "--impure", "--json", "--expr", expression)
        if ended.returncode != 0:
            raise ValueError(ended.stderr)
        return json.loads(ended.stdout)

    return host


@pytest.fixture(scope="session")
def example(evaluate: Evaluate) -> Any:
    """The host of nix/example.nix."""
    return evaluate(f"import {ROOT}/nix/example.nix")


@pytest.fixture(scope="session")
def flake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flake without what a checkout has beside it: nix copies the whole folder."""
    folder = tmp_path_factory.mktemp("flake")
    for name in FLAKE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder
