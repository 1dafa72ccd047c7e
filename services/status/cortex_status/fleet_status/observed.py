"""What the hosts said, or why they did not: one value for each host of the inventory.

Owns: the shapes of what was seen; they are part of the `--json` document. Does not own: the neuron's own answers
(cortex_contracts.wire.neuron). Of a gateway's answers (cortex_contracts.wire.gateway) these are the parts that are
shown, none required: a gateway of another version is shown as far as it goes. Made by asking; read by drift, document
and rendering.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from cortex_contracts.wire.neuron import Answer, Discovery, Health, ModelRow, VersionAnswer


class Silence(StrEnum):
    """Why an endpoint gave nothing that can be used."""

    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # no route, no such name, or the connection broke
    TIMED_OUT = "timed_out"
    BAD_ANSWER = "bad_answer"  # another status than 200, not HTTP, not JSON, or not the shape of the contract


class Shown(BaseModel):
    """A part of the document: frozen, and built by us alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Problem(Shown):
    """One endpoint that gave nothing."""

    reason: Silence
    endpoint: str = Field(examples=["/health"])
    message: str


class NeuronBelief(Answer):
    """What a gateway believes about one neuron."""

    name: str
    url: str | None = None
    healthy: bool | None = None
    state: str | None = None


class GatewayHealth(Answer):
    """GET /health of a gateway."""

    status: str | None = None
    uptime_secs: float | None = None
    version: str | None = None
    in_flight: int | None = None
    neurons: list[NeuronBelief] | None = None


class GatewayVersion(Answer):
    """GET /version of a gateway."""

    version: str | None = None
    release: str | None = None
    files: dict[str, str | None] = Field(default_factory=dict)
    awaits_restart: list[str] = Field(default_factory=list)


class Location(Answer):
    """A neuron on which the gateway knows a model to be. `in_flight` counts the requests of every gateway."""

    neuron: str
    status: str | None = None
    in_flight: int = 0


class CatalogueEntry(Answer):
    """One item of a gateway's GET /v1/models."""

    id: str
    status: str | None = None
    locations: list[Location] = Field(default_factory=list)


class Catalogue(Answer):
    """GET /v1/models of a gateway."""

    data: list[CatalogueEntry]


class GatewaySeen(Shown):
    """A declared gateway, and each of its answers; None is one that did not come."""

    name: str
    url: str
    problems: list[Problem] = Field(default_factory=list)
    health: GatewayHealth | None = None
    catalogue: Catalogue | None = None
    version_answer: GatewayVersion | None = None

    @property
    def answers(self) -> bool:
        return any(part is not None for part in (self.health, self.catalogue, self.version_answer))

    @property
    def version(self) -> str | None:
        answer = self.version_answer or self.health
        return answer.version if answer else None


class NeuronSeen(Shown):
    """A declared neuron, and each of its answers; None is one that did not come."""

    name: str
    url: str
    problems: list[Problem] = Field(default_factory=list)
    health: Health | None = None
    models: list[ModelRow] | None = None
    discovery: Discovery | None = None
    version_answer: VersionAnswer | None = None

    @property
    def answers(self) -> bool:
        return any(part is not None for part in (self.health, self.models, self.discovery, self.version_answer))

    @property
    def version(self) -> str | None:
        answer = self.version_answer or self.health or self.discovery
        return answer.version if answer else None


class Observed(Shown):
    """Every declared host, in the inventory's order."""

    gateways: list[GatewaySeen]
    neurons: list[NeuronSeen]

    @property
    def hosts(self) -> list[GatewaySeen | NeuronSeen]:
        return [*self.gateways, *self.neurons]
