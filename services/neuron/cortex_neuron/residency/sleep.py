"""Models that sleep: their weights in host memory, their processes alive, nothing of them on a device.

Owns: how much host memory they may take together, who of them goes for a newcomer, and falling asleep. Does not own:
states (resident), the watch over a sleeper and its waking (residency), or what its ranks do (engine.rest). Called by:
residency. Why so: docs/decisions/0025-sleep.md.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from cortex_contracts.wire.neuron import Failure, ModelStatus
from cortex_neuron.hardware import devices
from cortex_neuron.residency.harness import Serving, SleepFailed
from cortex_neuron.residency.resident import Asleep, Resident
from cortex_serving import logs

_SPARE_MB = 1024  # of the host's memory: a copy that takes the last of it ends processes, and not the one that is late


@dataclass(frozen=True, slots=True)
class Bed:
    """A model with host memory for its sleep, as it is chosen by. One that is `wanted` now goes for nobody."""

    since: float
    model_id: str
    host_mb: int
    wanted: bool = False


def demoted(need_mb: int, budget_mb: int, beds: Sequence[Bed]) -> list[str] | None:
    """Who is unloaded for `need_mb` more to fit: those longest asleep. None where it does not fit even so. Pure."""
    taken_mb, gone = sum(bed.host_mb for bed in beds), []
    for bed in sorted([bed for bed in beds if not bed.wanted], key=lambda bed: bed.since):
        if taken_mb + need_mb <= budget_mb:
            break
        gone.append(bed.model_id)
        taken_mb -= bed.host_mb
    return gone if need_mb > 0 and taken_mb + need_mb <= budget_mb else None


class Sleepers:
    """All models that sleep here. `unload` ends one of them."""

    def __init__(self, budget_mb: int, timeout_s: float, unload: Callable[[str], Awaitable[object]]) -> None:
        self._budget_mb, self._timeout_s, self._unload = budget_mb, timeout_s, unload
        self._wanted: dict[str, str | None] = {}  # models that are to fall asleep, and the one that each goes for
        self._turn = asyncio.Lock()  # each counts on the room that the one before it has left

    def want(self, model_id: str, newcomer: str | None) -> None:
        """This one is to sleep, once its requests have ended."""
        self._wanted[model_id] = newcomer

    def forgo(self, model_id: str) -> None:
        """It is to be unloaded whatever was wanted before."""
        self._wanted.pop(model_id, None)

    async def fall_asleep(
        self, resident: Resident, serving: Serving, others: Iterable[Resident], copies: bool
    ) -> Asleep | Failure | None:
        """None where it is not to, has no room or is wanted asleep no more, and a Failure where it has not managed to:
        then it is to be ended. `copies`: its weights are not in host memory yet."""
        model_id = resident.model.id
        async with self._turn:
            if model_id not in self._wanted or serving.sleeps is None:
                return None
            if not await self._has_room(model_id, serving.size.weights_mb, others, copies):
                return None
            began = time.monotonic()
            try:
                host_mb = await serving.sleeps.sleep(self._timeout_s)
            except SleepFailed as failed:
                logs.error("sleep_failed", model=model_id, kind=failed.failure.kind, message=failed.failure.message)
                message = f"it did not fall asleep: {failed.failure.message}"
                return failed.failure.model_copy(update={"message": message})
            now = time.monotonic()
            logs.info("model_asleep", model=model_id, seconds=round(now - began, 3), host_memory_mb=host_mb)
            return Asleep(serving, host_mb, now) if model_id in self._wanted else None

    async def _has_room(self, model_id: str, need_mb: int, others: Iterable[Resident], copies: bool) -> bool:
        """Whether there is room for it, once others have made some. Who goes is decided again after each that has gone:
        the next one may have been woken meanwhile."""
        newcomer = self._wanted.get(model_id)
        while gone := demoted(need_mb, self._budget_mb, _beds(others, newcomer)):
            logs.info("demoted", model=gone[0], newcomer=model_id)
            await self._unload(gone[0])
        free_mb = devices.host_free_mb()
        fits = gone is not None and (not copies or need_mb + _SPARE_MB <= free_mb)
        if not fits:
            logs.info("no_sleep", model=model_id, need_mb=need_mb, budget_mb=self._budget_mb, host_free_mb=free_mb)
        return fits


def _beds(residents: Iterable[Resident], newcomer: str | None) -> list[Bed]:
    """Of those that have one now. Who is on its way out goes first, for it goes anyway; who is being woken, or is to be
    next, does not."""
    return [
        Bed(
            -math.inf if each.status is ModelStatus.DRAINING else each.asleep.since,
            each.model.id,
            each.asleep.host_mb,
            wanted=each.status is ModelStatus.LOADING or each.model.id == newcomer,
        )
        for each in residents
        if each.asleep is not None
    ]
