"""The driver and torch, each asked by a process of its own that can be given up.

Owns: the processes and their deadline: a driver that hangs takes along whoever asks it. Does not own: what is asked
(driver_probe, torch_probe) or what the answers mean (host). Called by: examination.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import TypeVar

from pydantic import ValidationError

from cortex_neuron.doctor.facts import Fact

_Answer = TypeVar("_Answer", bound=Fact)

_KILLED_S = 2.0  # a process that hangs in the kernel is not waited for


class Unanswered(Exception):
    """A probe has come to nothing; the message says how."""


async def ask(module: str, shape: type[_Answer], timeout_s: float) -> _Answer:
    """What the module prints when it is run. Raises Unanswered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError as late:
        raise Unanswered(f"no answer within {timeout_s:g} s") from late
    finally:
        await _end(process)
    try:
        return shape.model_validate_json(out)
    except ValidationError as invalid:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unanswered(last or f"its process ended with exit code {process.returncode}") from invalid


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILLED_S):
                await process.wait()
