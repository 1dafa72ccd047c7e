"""Loading a neuron's models anew after many evictions there (`defrag_after_cycles`), one model of the fleet at a time.

Owns: the one task that does it, and where each neuron's round stands. Does not own: when and which (routing/recycle.py)
or the load itself (loading.py): who asks for the model meanwhile waits for that. Called by: gateway.py.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cortex_contracts.wire.errors import CortexError
from cortex_gateway.loading import Loads
from cortex_gateway.routing.decision import Load
from cortex_gateway.routing.recycle import Cycle, recycle
from cortex_gateway.state import State
from cortex_serving import logs


class Recycler:
    """Looks at every neuron once a poll."""

    def __init__(self, state: State, loads: Loads) -> None:
        self._state, self._loads = state, loads
        self._cycles: dict[str, Cycle] = {}  # by neuron
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, timeout_s: float) -> None:
        """Begin nothing more; a model that has been taken down has `timeout_s` to be back."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            for name in self._state.beliefs.snapshot().neurons:
                await self._look_at(name)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._state.config.settings.gateway.poll_interval_s):
                    await self._stopping.wait()

    async def _look_at(self, name: str) -> None:
        neuron = self._state.beliefs.snapshot().neurons.get(name)
        if neuron is None or self._stopping.is_set():
            return
        after = self._state.config.settings.eviction.defrag_after_cycles
        before, evictions = self._cycles.get(name, Cycle()), self._loads.evictions[name]
        cycle, load = recycle(before, evictions, neuron, self._state.rules(), after)
        if load is not None and self._loads.under_way(*load.evict):
            return  # it is being loaded on another neuron: its turn comes after that
        self._cycles[name] = cycle
        if load is not None and not await self._load_anew(load):
            self._cycles[name] = Cycle(cycle.begun_at)  # what still serves is left alone

    async def _load_anew(self, load: Load) -> bool:
        """Whether the model is back."""
        (model_id,), neuron = load.evict, load.neuron.name
        config = self._state.config
        logs.info("recycle", model=model_id, neuron=neuron)
        self._state.decisions.record("", model_id, load)
        try:
            model, timeout_s = config.catalogue.models[model_id], config.settings.gateway.cold_load_timeout_s
            await self._loads.until_loaded(model, load, timeout_s)
        except CortexError as failure:
            logs.warning("recycle_failed", model=model_id, neuron=neuron, code=failure.code, message=failure.message)
            self._state.metrics.recycles.labels(neuron, "failed").inc()
            return False
        logs.info("recycled", model=model_id, neuron=neuron)
        self._state.metrics.recycles.labels(neuron, "loaded").inc()
        return True
