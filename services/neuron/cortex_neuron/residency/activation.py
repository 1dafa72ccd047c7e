"""The models that this neuron loads by itself: at start (preload_on), and those that a new catalogue loads again.

Owns: asking for them, and again while they have no room or the neuron is drained; and telling how far it is. The
sockets are bound before (case L2). Called by: daemon, in_effect, api.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cortex_contracts.wire.errors import CortexError, Unavailable
from cortex_contracts.wire.neuron import Activation, LoadRequest, ModelStatus, NeuronState
from cortex_neuron.residency.residency import Residency
from cortex_neuron.residency.resident import Resident
from cortex_serving import logs

_RETRY_S = 5.0


@dataclass(slots=True)
class _Wish:
    """A model that is to be loaded, once."""

    resident: Resident
    loads_before: int
    refused: bool = False  # this neuron can never load it
    asking: asyncio.Task[None] | None = None

    @property
    def has_failed(self) -> bool:
        return self.refused or self.resident.status is ModelStatus.FAILED

    @property
    def is_done(self) -> bool:
        """Once is enough: what is evicted afterwards is not loaded again."""
        return self.has_failed or self.resident.loads > self.loads_before


class Preloads:
    """One task for each wanted model."""

    def __init__(self, name: str, residency: Residency) -> None:
        self._residency = residency
        wanted = [each for each in residency.residents.values() if name in each.model.preload_on]
        self._wishes = {each.model.id: _Wish(each, each.loads) for each in wanted}

    def start(self) -> None:
        """Begin to load; returns at once."""
        for wish in self._wishes.values():
            wish.asking = wish.asking or asyncio.create_task(self._load(wish))

    async def stop(self) -> None:
        """Ask for nothing more."""
        tasks = [wish.asking for wish in self._wishes.values() if wish.asking is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def want(self, resident: Resident) -> None:
        """Have it loaded, when it is not being unloaded any more; returns at once."""
        self.forget(resident.model.id)
        wish = self._wishes[resident.model.id] = _Wish(resident, resident.loads)
        if self._residency.mode is not NeuronState.STOPPING:
            wish.asking = asyncio.create_task(self._load(wish))

    def forget(self, model_id: str) -> None:
        """Ask for it no more. What is under way goes on."""
        wish = self._wishes.pop(model_id, None)
        if wish is not None and wish.asking is not None:
            wish.asking.cancel()

    def progress(self) -> Activation:
        """How far it is, for /health."""
        wishes = self._wishes.items()
        return Activation(
            wanted=list(self._wishes),
            loaded=[model_id for model_id, wish in wishes if wish.resident.status is ModelStatus.LOADED],
            failed=[model_id for model_id, wish in wishes if wish.has_failed],
        )

    def state(self) -> NeuronState:
        """The neuron's state: ready only once every wanted model has been loaded, or has failed."""
        done = all(wish.is_done for wish in self._wishes.values())
        if self._residency.mode is NeuronState.READY and not done:
            return NeuronState.ACTIVATING
        return self._residency.mode

    async def _load(self, wish: _Wish) -> None:
        model_id, waits_for = wish.resident.model.id, None
        while True:
            await wish.resident.left({ModelStatus.DRAINING})
            try:
                await self._residency.load(LoadRequest(model_id=model_id))
                return
            except Unavailable as failure:
                if failure.code != waits_for:
                    waits_for = failure.code
                    logs.warning("preload_waits", model=model_id, code=failure.code, message=failure.message)
                if wish.resident.status is ModelStatus.FAILED:
                    return
            except CortexError as failure:
                wish.refused = True
                logs.error("preload_failed", model=model_id, code=failure.code, message=failure.message)
                return
            await asyncio.sleep(_RETRY_S)
