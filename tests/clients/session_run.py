"""One session, run and judged.

Owns: its process, its environment, its folder, and what an exit code means. Does not own: what is said (sessions/,
said/). Called by: __main__, tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.clients.fleet import Fleet
from tests.clients.installation import Installed
from tests.clients.outside import Outside
from tests.clients.report import Outcome, Result
from tests.clients.table import HERE, Session

SAID = HERE / "said"
TIMEOUT_S = 300.0
_SKIPPED = 77
_SHOWN_LINES = 30
_KEPT = ("LANG", "LC_ALL", "TERM", "TZ")  # of the caller's environment: his keys and settings are no client's here


async def run(
    session: Session, installed: Installed, fleet: Fleet, outside: Outside, timeout_s: float = TIMEOUT_S
) -> Result:
    """The session in a folder of its own, which is its home, too."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="client-") as home:
        process = await asyncio.create_subprocess_exec(
            *_command(session, installed), cwd=home, start_new_session=True,
            env=environment(session, installed, fleet, Path(home), outside.url),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = await asyncio.wait_for(process.communicate(), timeout_s)
            outcome, told = judged(process.returncode, said.decode(errors="replace"))
        except TimeoutError:
            outcome, told = Outcome.FAILED, f"not done in {timeout_s:g} s"
        finally:
            with suppress(ProcessLookupError):  # what it has left running, too
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Result(session.name, outcome, told, round(time.monotonic() - began, 1), outside.taken())


def judged(returncode: int | None, said: str) -> tuple[Outcome, str]:
    """A session says with its last line what it saw, or why it is skipped; a failure is shown with what led to it."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else ""
    match returncode:
        case 0:
            return (Outcome.PASSED, last) if last else (Outcome.FAILED, "it does not say what it saw")
        case _ if returncode == _SKIPPED:
            return (Outcome.SKIPPED, last) if last else (Outcome.FAILED, "it was skipped and does not say why")
    return Outcome.FAILED, "\n".join([f"exit {returncode}", *lines[-_SHOWN_LINES:]])


def environment(session: Session, installed: Installed, fleet: Fleet, home: Path, proxy: str) -> Mapping[str, str]:
    """All that a session's process gets to know."""
    programs = os.pathsep.join([*map(str, installed.programs), os.environ["PATH"]])
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), proxy)
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        **proxies,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        "PATH": programs,
        "PYTHONPATH": str(SAID),
        "HOME": str(home),
        "CORTEX_URL": fleet.url,
        "CORTEX_MODEL": fleet.model,
        "CORTEX_TOLD": fleet.told,
        **session.client.env,
    }


def _command(session: Session, installed: Installed) -> list[str]:
    """Not with its own folder among the modules: a session may be called as its client is."""
    if session.program.suffix == ".py":
        return [str(installed.python), "-P", str(session.program)]
    for module in (session.program, *SAID.glob("*.mjs")):  # node looks for packages beside the program
        shutil.copy(module, installed.folder)
    return ["node", str(installed.folder / session.program.name)]
