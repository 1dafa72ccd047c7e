"""GET /v1/models and /v1/models/{id}: the one catalogue, with where each model stands.

Owns: how the catalogue and a snapshot become one list. Pure but for the handlers. Called by: api/routes.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from urllib.parse import unquote

from sanic import HTTPResponse, Request

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.gateway import AnthropicModel, AnthropicModels, Location, ModelCatalogue, ModelEntry
from cortex_contracts.wire.neuron import ModelStatus
from cortex_dialects.dialect import Dialect
from cortex_gateway.api.answers import json_answer
from cortex_gateway.fleet.snapshot import Replica, Snapshot
from cortex_gateway.state import State
from cortex_serving.application import dialect

# From best to worst, as a client sees it.
_BEST_FIRST = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.RECOVERING,
    ModelStatus.PENDING,
    ModelStatus.SLEEPING,
    ModelStatus.DRAINING,
    ModelStatus.UNLOADED,
    ModelStatus.FAILED,
)

# Of models that write nothing, whatever the catalogue's default says.
_CAPABILITY = {"embed": "embeddings", "rerank": "rerank"}


class Models:
    """The handlers. `created` is the time of start, in seconds since 1970: the catalogue has no other."""

    def __init__(self, state: State, created: int) -> None:
        self._state, self._created = state, created

    async def all(self, request: Request) -> HTTPResponse:
        """Every declared model that the caller may use."""
        state, models = self._state, self._state.config.keys.client(request.headers).allowed.models
        snapshot = state.beliefs.snapshot()
        entries = [entry(model, snapshot, state.outstanding, self._created) for _, model in sorted(models.items())]
        if dialect(request) is Dialect.ANTHROPIC:
            return json_answer(anthropic_models(entries))
        return json_answer(ModelCatalogue(data=entries))

    async def one(self, request: Request, model_id: str) -> HTTPResponse:
        """One of them, by id or alias. A trailing slash after "models" comes here too."""
        state, name = self._state, unquote(model_id).rstrip("/")
        if not name:
            return await self.all(request)
        model = state.config.keys.client(request.headers).resolve(name)
        found = entry(model, state.beliefs.snapshot(), state.outstanding, self._created)
        return json_answer(_anthropic_model(found) if dialect(request) is Dialect.ANTHROPIC else found)


def entry(model: Model, snapshot: Snapshot, ours: Mapping[tuple[str, str], int], created: int) -> ModelEntry:
    """One model and where it is. A neuron that is down is no place to be (case L4)."""
    replicas = [each for each in snapshot.replicas_of(model.id) if each.model.status is not ModelStatus.UNLOADED]
    locations = [_location(replica, ours) for replica in sorted(replicas, key=lambda each: each.neuron.name)]
    statuses = {location.status for location in locations} or {ModelStatus.UNLOADED}
    task = next((replica.model.task for replica in replicas if replica.model.task), _declared_task(model))
    contexts = [replica.model.context for replica in replicas if replica.model.context is not None]
    return ModelEntry(
        id=model.id,
        created=created,
        status=next(status for status in _BEST_FIRST if status in statuses),
        locations=locations,
        progress=next((location.progress for location in locations if location.progress is not None), None),
        aliases=list(model.aliases),
        context=min(contexts, default=model.context),
        harness=model.harness,
        task=task,
        capabilities=[_CAPABILITY[task]] if task in _CAPABILITY else list(model.capabilities),
    )


def _declared_task(model: Model) -> str | None:
    return None if model.task == "auto" else model.task


def anthropic_models(entries: list[ModelEntry]) -> AnthropicModels:
    """The list as Anthropic's SDK reads it."""
    return AnthropicModels(
        data=[_anthropic_model(each) for each in entries],
        first_id=entries[0].id if entries else None,
        last_id=entries[-1].id if entries else None,
    )


def _anthropic_model(found: ModelEntry) -> AnthropicModel:
    at = datetime.datetime.fromtimestamp(found.created, datetime.UTC).isoformat().replace("+00:00", "Z")
    return AnthropicModel(
        id=found.id,
        display_name=found.id,
        created_at=at,
        max_input_tokens=found.context,
        max_tokens=found.context,
    )


def _location(replica: Replica, ours: Mapping[tuple[str, str], int]) -> Location:
    model, neuron = replica.model, replica.neuron.name
    in_flight = model.elsewhere + ours.get((neuron, model.id), 0)
    return Location(neuron=neuron, status=model.status, in_flight=in_flight, progress=model.progress)
