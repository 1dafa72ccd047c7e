"""What the gateway says of itself and of the fleet's models.

Owns: the shapes of its /health, /version and /v1/models. Called by: the gateway (answers), whoever shows them (reads).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from cortex_contracts.wire.neuron import ModelStatus, NeuronState, Progress


class NeuronSeen(BaseModel):
    """One neuron, as the gateway believes it to be. `state` is its last word, whether or not it still answers."""

    name: str
    url: str
    healthy: bool
    state: NeuronState | None
    strikes: int
    models: list[str]
    version: str | None


class GatewayHealth(BaseModel):
    """GET /health. degraded: some neurons do not answer; unavailable: none does. 503 while draining or stopping."""

    status: Literal["ok", "degraded", "unavailable", "draining", "stopping"]
    uptime_secs: float
    version: str
    in_flight: int
    neurons: list[NeuronSeen]


class GatewayVersion(BaseModel):
    """GET /version: what runs. `files` are SHA-256, by name, of what was read at the start or by the last reload that
    was taken up; null where workers differ. `awaits_restart` are keys of cortex.toml whose values are not taken up yet.
    """

    version: str
    release: str | None
    files: dict[str, str | None]
    awaits_restart: list[str]


class Location(BaseModel):
    """A model on a neuron that answers."""

    neuron: str
    status: ModelStatus
    in_flight: int
    progress: Progress | None = None


class ModelEntry(BaseModel):
    """One declared model: OpenAI's card, and where it stands. `status` is the best of its locations."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cortex"
    status: ModelStatus
    locations: list[Location]
    progress: Progress | None = None
    aliases: list[str]
    context: int | None
    harness: str
    task: str | None = None  # as of a neuron's ModelRow
    capabilities: list[str]


class ModelCatalogue(BaseModel):
    """GET /v1/models: every declared model, loaded or not."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class AnthropicModel(BaseModel):
    """One entry of /v1/models for a client that sends `anthropic-version`.

    Both limits are the model's context: what a prompt leaves of it may be answered.
    """

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None
    max_tokens: int | None


class AnthropicModels(BaseModel):
    """GET /v1/models for a client that sends `anthropic-version`; always one page."""

    data: list[AnthropicModel]
    has_more: bool = False
    first_id: str | None
    last_id: str | None
