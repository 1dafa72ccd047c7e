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

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


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


def run_site(inventory: Path, *arguments: str, playbook: str = "site.yml") -> Run:
    """`ansible-playbook site.yml`, as an operator runs it, from the top folder."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, playbook, *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "500"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Run(done.returncode, done.stdout + done.stderr)
