"""The configuration in effect, and what a reload makes of it.

Owns: which files were taken up, and the order of a reload. Does not own: what becomes of a model (catalogue_change), or
how (residency, activation). Called by: daemon, on SIGHUP and one at a time; api.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from cortex_contracts.inventory.files import ConfigInvalid, NeuronSection
from cortex_neuron.configuration import MODELS, SETTINGS, Configuration
from cortex_neuron.residency import catalogue_change
from cortex_neuron.residency.activation import Preloads
from cortex_neuron.residency.catalogue_change import Drop, Forgo, Preload, Renew, Step, Take
from cortex_neuron.residency.residency import Residency
from cortex_serving import logs


class InEffect:
    """Settings are those of the start; the catalogue is the last one that was right."""

    def __init__(
        self,
        known: Configuration,
        read_again: Callable[[], Configuration],
        residency: Residency,
        preloads: Preloads,
    ) -> None:
        self._known = known
        self._read_again = read_again
        self._residency = residency
        self._preloads = preloads

    def files(self) -> Mapping[str, str]:
        """Digests of the bytes that it runs with, by the file's name."""
        return self._known.files

    async def reload(self) -> None:
        """Take up the catalogue as it is now; where either file is wrong, all stays as it is (case L11).

        Returns once each model is on its way: what has to end first has its time to.
        """
        try:
            read = await asyncio.to_thread(self._read_again)
        except ConfigInvalid as invalid:
            logs.error("reload_refused", problems=invalid.problems)
            return
        before = self._known
        kept = _need_a_restart(before.settings, read.settings)
        for key in kept:
            logs.warning("needs_restart", key=f"neuron.{key}")
        digests = {SETTINGS: (before if kept else read).files[SETTINGS], MODELS: read.files[MODELS]}
        # No await from here on: a request sees the old catalogue, or the new one.
        statuses = {model_id: each.status for model_id, each in self._residency.residents.items()}
        steps = catalogue_change.steps(before.settings.name, before.models, read.models, statuses)
        self._known = Configuration(before.settings, read.models, digests)
        for step in steps:
            self._take(step)
        logs.info("reloaded", models=len(read.models), steps=[_words(step) for step in steps])

    def _take(self, step: Step) -> None:
        match step:
            case Drop(model_id):
                self._preloads.forget(model_id)
                self._residency.drop(model_id)
            case Take(model):
                self._residency.take(model)
            case Renew(model, again):
                resident = self._residency.take(model)
                self._residency.begin_unload(resident)
                if again:
                    self._preloads.want(resident)
            case Preload(model_id):
                self._preloads.want(self._residency.residents[model_id])
            case Forgo(model_id):
                self._preloads.forget(model_id)


def _need_a_restart(before: NeuronSection, now: NeuronSection) -> list[str]:
    """The keys that have changed; all are of the daemon's start. Without values: an environment may hold tokens."""
    return [key for key in NeuronSection.model_fields if getattr(before, key) != getattr(now, key)]


def _words(step: Step) -> str:
    match step:
        case Take(model) | Renew(model):
            model_id = model.id
        case Drop(model_id) | Preload(model_id) | Forgo(model_id):
            pass
    return f"{type(step).__name__.lower()} {model_id}"
