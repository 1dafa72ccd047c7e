"""The declared models and the names they go by.

Owns: alias -> model. Does not own: where a model is loaded (fleet). Pure. Called by: api, routing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import ModelNotFound

_NAMED_IN_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Models by id, and every name (ids and aliases) that means one."""

    models: Mapping[str, Model]
    names: Mapping[str, Model]

    @classmethod
    def of(cls, models: tuple[Model, ...]) -> Catalogue:
        """The catalogue of `models`, whose names are known to be unique (config.py checks)."""
        by_id = {model.id: model for model in models}
        aliases = {alias: model for model in models for alias in model.aliases}
        return cls(models=MappingProxyType(by_id), names=MappingProxyType(aliases | by_id))

    def only(self, names: Iterable[str]) -> Catalogue:
        """The part of it that consists of these models, by id or alias."""
        ids = {self.names[name].id for name in names}
        return Catalogue(
            models=MappingProxyType({model_id: model for model_id, model in self.models.items() if model_id in ids}),
            names=MappingProxyType({name: model for name, model in self.names.items() if model.id in ids}),
        )

    def resolve(self, name: str) -> Model:
        """The model that clients mean by `name`. Raises ModelNotFound, which lists what there is (case L5)."""
        model = self.names.get(name)
        if model is None:
            raise ModelNotFound(f"no model {name!r}; there is: {self._listed()}", param="model")
        return model

    def _listed(self) -> str:
        known = sorted(self.models)
        shown = ", ".join(known[:_NAMED_IN_ERRORS]) or "none"
        return shown if len(known) <= _NAMED_IN_ERRORS else f"{shown} and {len(known) - _NAMED_IN_ERRORS} more"


def clashes(models: tuple[Model, ...]) -> Iterator[str]:
    """Names that stand for two things, as lines without the file's name."""
    owners: dict[str, str] = {}
    for number, model in enumerate(models):
        for key, name in [("id", model.id), *(("aliases", alias) for alias in model.aliases)]:
            if name in owners:
                yield f"models.{number}.{key}: {name!r} is already a name of {owners[name]!r}"
            owners.setdefault(name, model.id)
