"""The files of a model that is to be loaded: found here, or fetched first.

Owns: the wait for a source that cannot be reached, and the states meanwhile. Does not own: where files are (sources) or
whether they are fit (Harness.check). Called by: residency.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import Failure, ModelStatus
from cortex_neuron.residency import recovery, sources
from cortex_neuron.residency.harness import Harness, LoadFailed
from cortex_neuron.residency.resident import Resident
from cortex_neuron.residency.sources import SourceMissing, SourceUnreachable
from cortex_serving import logs


async def wait_for(resident: Resident, model: Model, harness: Harness, judged: asyncio.Event) -> Path:
    """Where they are, once they are; `judged` is set when the first look at them is over. Raises LoadFailed."""
    attempts = 0
    while (path := await harness.check(model)) is None:
        if resident.status is not ModelStatus.PENDING:
            resident.become(ModelStatus.PENDING)
        judged.set()
        try:
            for source in model.sources:
                await _fetch(source)
        except SourceUnreachable as unreachable:
            attempts += 1
            resident.failure = Failure(kind="source_unreachable", message=str(unreachable))
            logs.warning("source_unreachable", model=model.id, attempts=attempts, message=str(unreachable))
            await asyncio.sleep(recovery.next_fetch_s(attempts))
    if resident.status is ModelStatus.PENDING:
        resident.become(ModelStatus.LOADING)
    return path


async def _fetch(source: str) -> None:
    """Fetch a repository, if it is one. Raises LoadFailed, or SourceUnreachable where trying again may help."""
    try:
        if not sources.is_local(source):
            await asyncio.to_thread(sources.fetch, source)
    except SourceMissing as failure:
        raise LoadFailed(Failure(kind="source_invalid", message=str(failure))) from failure
