"""A fleet of one for the sessions: a gateway, a neuron with the demo model, and one whose model says what it is told.

Owns: what runs, and the demo model's copy whose chat template has a place for tools. Does not own: who talks to it.
Called by: __main__.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gateway_process
from neuron_process import DEMO_MODEL, REAL, ROOT, running_neuron
from scripted_model import write_model

TEMPLATE = ROOT / "tests/unit/neuron/families/hermes.jinja"
_CONTEXT = 8192
_ROOM = 2**20  # tokens; scripted_rank's are bytes, and an agent's prompt has a hundred thousand
_LOAD_TIMEOUT_S = 120


class NoDemoModel(Exception):
    """The demo model is not there, or no copy of it could be written."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where it answers, and the names of its models."""

    url: str
    model: str = "smollm2"
    told: str = "told"


@asynccontextmanager
async def running(folder: Path, demo_model: Path) -> AsyncIterator[Fleet]:
    """The fleet inside the with block, both models loaded; its files are in `folder`."""
    fleet = Fleet("")
    real: dict[str, Any] = {
        "id": fleet.model,
        "source": str(demo_model),
        "vram_mb": 2600,
        "context": _CONTEXT,
        "preload_on": ["one"],
    }
    source = write_model(folder / "told", template=TEMPLATE.read_text(), kv_blocks=_ROOM // 16)
    told: dict[str, Any] = {
        "id": fleet.told,
        "source": str(source),
        "vram_mb": 10,
        "context": _ROOM,
        "preload_on": ["two"],
    }
    declared = [gateway_process.model_entry(each["id"], context=each["context"]) for each in (real, told)]
    async with running_neuron([real], REAL, name="one") as one, running_neuron([told], name="two") as two:
        await one.until_status("loaded", fleet.model, timeout_s=_LOAD_TIMEOUT_S)
        await two.until_status("loaded", fleet.told, timeout_s=_LOAD_TIMEOUT_S)
        neurons: list[Any] = [one, two]
        async with gateway_process.running(folder, neurons, declared, idle_timeout_s=60.0) as gateway:
            await gateway.health(lambda health: sum(len(each["models"]) for each in health["neurons"]) == len(declared))
            yield Fleet(gateway.url)


async def demo_model_with_tools(folder: Path) -> Path:
    """A copy of the demo model whose template has a place for tools, which its own has not; written once."""
    copy = folder / f"{DEMO_MODEL.stem}-tools.gguf"
    if copy.exists() and copy.stat().st_mtime > TEMPLATE.stat().st_mtime:
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    written = copy.with_suffix(".new")
    program = str(Path(sys.executable).parent / "gguf-new-metadata")
    process = await asyncio.create_subprocess_exec(
        program, "--force", "--chat-template-file", str(TEMPLATE), str(DEMO_MODEL), str(written),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    if process.returncode:
        raise NoDemoModel(f"{DEMO_MODEL} could not be copied: {said.decode()[-300:]}")
    return written.rename(copy)
