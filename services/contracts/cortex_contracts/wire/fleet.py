"""The gateway's operator API under /fleet: what it shows of the fleet and of its decisions, and what it may be told.

Owns: the shapes. Called by: the gateway (answers), the `cortex` commands and the page at /ui (read). All of it asks for
the admin key. Times are ISO 8601 in UTC (`_at`) or seconds (`_s`), memory MiB (`_mb`).

    GET  /fleet/status                          FleetStatus
    GET  /fleet/explain?model=NAME              Explanation
    GET  /fleet/decisions?limit=N&model=NAME    Decisions
    POST /fleet/models/load?wait=false          ModelCommand -> CommandDone
    POST /fleet/models/unload?force=true        ModelCommand -> CommandDone
    POST /fleet/models/{pin,unpin}              ModelCommand -> CommandDone
    POST /fleet/neurons/{drain,undrain}         NeuronCommand -> CommandDone
    POST /fleet/gateway/{drain,undrain}         -> CommandDone
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from cortex_contracts.wire.gateway import ModelEntry
from cortex_contracts.wire.neuron import Failure, ModelStatus, NeuronState, Progress, Request

Gate = Literal["open", "draining", "closed"]
Reach = Literal["unknown", "up", "down"]
Circuit = Literal["closed", "open", "half_open"]
DecisionKind = Literal["forward", "wait", "load", "reject"]


class DeviceNow(BaseModel):
    """One device of a neuron."""

    index: int
    name: str
    vram_total_mb: int
    vram_free_mb: int
    utilization_pct: int | None = None
    temp_c: int | None = None


class ModelNow(BaseModel):
    """One model on one neuron. `pinned` is by the inventory or by an operator; `in_flight` of all gateways; one that
    sleeps has `host_memory_mb`.
    """

    id: str
    status: ModelStatus
    devices: list[int]
    vram_used_mb: int
    host_memory_mb: int = 0
    in_flight: int
    pinned: bool
    circuit: Circuit
    last_used_s: float | None = None
    progress: Progress | None = None
    failure: Failure | None = None


class NeuronNow(BaseModel):
    """One neuron, as this gateway believes it to be."""

    name: str
    url: str
    reach: Reach
    state: NeuronState | None
    strikes: int
    version: str | None
    device_kind: str
    harnesses: list[str]
    devices: list[DeviceNow]
    models: list[ModelNow]


class RequestNow(BaseModel):
    """One request under way in this gateway."""

    request_id: str
    key: str
    path: str
    model: str
    neuron: str
    stream: bool
    stage: str
    age_s: float
    ttft_s: float | None = None


class GatewayNow(BaseModel):
    """The gateway itself. `waiting` are requests whose model is not loaded yet."""

    version: str
    uptime_s: float
    gate: Gate
    in_flight: int
    waiting: int
    workers: int


class FleetStatus(BaseModel):
    """GET /fleet/status"""

    gateway: GatewayNow
    neurons: list[NeuronNow]
    models: list[ModelEntry]
    requests: list[RequestNow]


class Considered(BaseModel):
    """One neuron, in a decision: whether the model could go there, and the words why or why not."""

    neuron: str
    verdict: Literal["chosen", "possible", "impossible"]
    reason: str
    devices: list[int] | None = None
    evict: list[str] = []


class Explanation(BaseModel):
    """GET /fleet/explain: what would be decided for a request for the model now; nothing is done."""

    model: str
    decision: DecisionKind
    neuron: str | None
    devices: list[int] | None = None
    evict: list[str] = []
    reason: str
    considered: list[Considered]


class DecisionRow(BaseModel):
    """A decision that was taken."""

    decided_at: str
    request_id: str
    model: str
    decision: DecisionKind
    neuron: str | None
    devices: list[int] | None = None
    evict: list[str] = []
    reason: str


class Decisions(BaseModel):
    """GET /fleet/decisions: the last ones, newest first."""

    data: list[DecisionRow]


class ExplainQuery(Request):
    """Of GET /fleet/explain"""

    model: str


class DecisionsQuery(Request):
    """Of GET /fleet/decisions. `model` leaves out those about others."""

    limit: int = Field(default=100, ge=1, le=2000)
    model: str | None = None


class LoadQuery(Request):
    """Of POST /fleet/models/load. Without `wait` it answers once the load is under way."""

    wait: bool = True


class UnloadQuery(Request):
    """Of POST /fleet/models/unload. With `force` also a model that is in use: what runs has some time to end."""

    force: bool = False


class ModelCommand(Request):
    """What is to be done with a model; without `neuron`, where it is (unload, pin, unpin) or fits best (load)."""

    model: str
    neuron: str | None = None


class NeuronCommand(Request):
    """Which neuron is meant."""

    neuron: str


class CommandDone(BaseModel):
    """What a command has come to. `neurons` are those that took it."""

    message: str
    neurons: list[str] = []
