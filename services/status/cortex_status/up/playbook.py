"""Rendering the files: site.yml, by ansible-playbook, as on any host.

Owns: finding site.yml, running it quietly, showing its output when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cortex_status.up.failures import UpFailed
from cortex_status.up.progress import Progress

END_TIMEOUT_S = 5.0


def playbook(source: str) -> Path:
    """The site.yml of the checkout that holds the inventory. Raises UpFailed."""
    start = Path(source).resolve()
    for folder in start.parents:
        if (folder / "site.yml").is_file():
            return folder / "site.yml"
    raise UpFailed(f"{source}: no site.yml in any folder above it; keep the inventory in a checkout of cortex")


async def render(sources: Sequence[str], vault_password_files: Sequence[str], progress: Progress) -> None:
    """Run site.yml over the inventory. Raises UpFailed with the playbook's output."""
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
    try:
        output = await _followed(process, progress)
        if await process.wait() != 0:
            raise UpFailed(f"{output.rstrip()}\n\nansible-playbook {site.name} failed; its output is above")
    finally:
        await _ended(process)


async def _followed(process: asyncio.subprocess.Process, progress: Progress) -> str:
    assert process.stdout is not None
    lines: list[str] = []
    async for raw in process.stdout:
        line = raw.decode(errors="replace")
        lines.append(line)
        if line.startswith("TASK ["):
            progress.stage("rendering the configuration", line.removeprefix("TASK [").partition("]")[0])
    return "".join(lines)


async def _ended(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
