"""Running the real site.yml over an inventory of a test's own, unprivileged, under a prefix."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_mitogen

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_IN_ONE_PYTHON = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": f"{ansible_mitogen.__path__[0]}/plugins/strategy",
}


@dataclass(frozen=True)
class Run:
    """What a run of the playbook said; `changed` and `failed` are summed over the hosts."""

    returncode: int
    output: str

    def count(self, word: str) -> int:
        """The recap's number of tasks, such as changed, over all hosts."""
        return sum(map(int, re.findall(rf"\b{word}=(\d+)", self.output)))


def write_inventory(folder: Path, hosts: dict[str, Any], everywhere: dict[str, Any]) -> Path:
    """An inventory of hosts that are all this machine. YAML is a superset of JSON."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    deployment = {"cortex_service_manager": "none", "cortex_bin_dir": str(BIN)}
    content = {
        "all": {"vars": {**local, **deployment, **everywhere}},
        "gateway": {"hosts": {name: values for name, values in hosts.items() if name.startswith("gw")}},
        "neurons": {"hosts": {name: values for name, values in hosts.items() if not name.startswith("gw")}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.yml").write_text(json.dumps(content))
    return folder


def run_site(inventory: Path, *arguments: str, playbook: str = "site.yml", as_typed: bool = False) -> Run:
    """`ansible-playbook site.yml`, from the top folder: `as_typed` as an operator runs it, else with the same modules
    in one Python for each host, in place of a new one for each task, which is most of what it would cost."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, playbook, *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "500", **({} if as_typed else _IN_ONE_PYTHON)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Run(done.returncode, done.stdout + done.stderr)
