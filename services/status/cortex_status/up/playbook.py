"""Rendering the files: site.yml, by ansible-playbook, as on any host.

Owns: finding site.yml, running it quietly, showing its output when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from cortex_status.progress import Progress
from cortex_status.up.failures import UpFailed

STAGE = "rendering the configuration"
END_TIMEOUT_S = 5.0


def playbook(source: str) -> Path:
    """The site.yml of the checkout that holds the inventory, or else of the one we stand in. Raises UpFailed."""
    here = Path.cwd()
    for folder in (*Path(source).resolve().parents, here, *here.parents):
        if (folder / "site.yml").is_file():
            return folder / "site.yml"
    raise UpFailed(f"{source}: no site.yml in any folder above it or above {here}; run this in a checkout of cortex")


async def plays(
    sources: Sequence[str], vault_password_files: Sequence[str], progress: Progress
) -> AsyncGenerator[str, None]:
    """Run site.yml over the inventory; the name of each play, as it starts. Raises UpFailed with all of its output."""
    progress.stage(STAGE)
    site = playbook(sources[0])
    arguments = [f"--inventory={Path(source).resolve()}" for source in sources]
    arguments += [f"--vault-password-file={Path(file).resolve()}" for file in vault_password_files]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ansible", "playbook", *arguments, str(site)),
        cwd=site.parent,
        env={**os.environ, "ANSIBLE_CONFIG": str(site.parent / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for us to pass on
    )
    assert process.stdout is not None
    output: list[str] = []
    try:
        async for raw in process.stdout:
            line = raw.decode(errors="replace")
            output.append(line)
            kind, _, name = line.partition("]")[0].partition(" [")
            if kind == "PLAY":
                yield name
            elif kind == "TASK":
                progress.stage(STAGE, name)
        if await process.wait() != 0:
            raise UpFailed(f"{''.join(output).rstrip()}\n\nansible-playbook {site.name} failed; its output is above")
    finally:
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
