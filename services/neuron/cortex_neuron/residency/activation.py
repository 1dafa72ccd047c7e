"""The models that this neuron loads by itself at start (preload_on).

Owns: asking for them, and again while they have no room or the neuron is drained; and telling how far it is. The
sockets are bound before (case L2). Called by: daemon, api.
"""

from __future__ import annotations

import asyncio

from cortex_contracts.wire.errors import CortexError, Unavailable
from cortex_contracts.wire.neuron import Activation, LoadRequest, ModelStatus, NeuronState
from cortex_neuron.residency.residency import Residency
from cortex_neuron.residency.resident import Resident
from cortex_serving import logs

_RETRY_S = 5.0


class Preloads:
    """One task for each wanted model."""

    def __init__(self, name: str, residency: Residency) -> None:
        self._residency = residency
        self._wanted = [each for each in residency.residents.values() if name in each.model.preload_on]
        self._refused: set[str] = set()  # those that this neuron can never load
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._tasks = [asyncio.create_task(self._load(each.model.id)) for each in self._wanted]

    async def stop(self) -> None:
        """Ask for nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def progress(self) -> Activation:
        """How far it is, for /health."""
        return Activation(
            wanted=[each.model.id for each in self._wanted],
            loaded=[each.model.id for each in self._wanted if each.status is ModelStatus.LOADED],
            failed=[each.model.id for each in self._wanted if self._has_failed(each)],
        )

    def state(self) -> NeuronState:
        """The neuron's state: ready only once every wanted model has been loaded, or has failed."""
        done = all(each.loads or self._has_failed(each) for each in self._wanted)
        if self._residency.mode is NeuronState.READY and not done:
            return NeuronState.ACTIVATING
        return self._residency.mode

    def _has_failed(self, resident: Resident) -> bool:
        return resident.status is ModelStatus.FAILED or resident.model.id in self._refused

    async def _load(self, model_id: str) -> None:
        waits_for = None
        while True:
            try:
                await self._residency.load(LoadRequest(model_id=model_id))
                return
            except Unavailable as failure:
                if failure.code != waits_for:
                    waits_for = failure.code
                    logs.warning("preload_waits", model=model_id, code=failure.code, message=failure.message)
                if self._residency.find(model_id).status is ModelStatus.FAILED:
                    return
            except CortexError as failure:
                self._refused.add(model_id)
                logs.error("preload_failed", model=model_id, code=failure.code, message=failure.message)
                return
            await asyncio.sleep(_RETRY_S)
