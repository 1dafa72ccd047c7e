"""A neuron whose models are served by scripted_vllm, or by a real vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
from neuron_process import ROOT, RunningNeuron, until

SCRIPT = ROOT / "tests/unit/neuron/scripted_vllm.py"


def write_program(folder: Path) -> str:
    """The program `vllm`, as an environment of its own would have it."""
    program = folder / "bin" / "vllm"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SCRIPT}" "$@"\n')
    program.chmod(0o755)
    return str(program)


def write_script(folder: Path, **script: Any) -> Path:
    """A model folder with orders for scripted_vllm's start."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script))
    return folder


def entry(source: Path, **more: Any) -> dict[str, Any]:
    """The catalogue's entry of the model `echo`."""
    return {"id": "echo", "source": str(source), "harness": "vllm", "preload_on": ["here"], **more}


def servers(neuron: RunningNeuron) -> list[psutil.Process]:
    """The server's processes: keeper, server, and what that has started."""
    keepers = [each for each in neuron.family() if "keeper.py" in " ".join(each.cmdline())]
    return [*keepers, *(child for keeper in keepers for child in keeper.children(recursive=True))]


async def until_gone(processes: list[psutil.Process], timeout_s: float = 15.0) -> None:
    """Until none of them runs."""

    async def gone() -> bool:
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)

    await until(gone, timeout_s)
