"""The neuron's own HTTP contract: what it says of its host and of the models on it.

Owns: the shapes of /discovery, /health, /models and their verbs. Called by: neuron (answers), gateway and
cortex-status (read). Memory is in MiB (`_mb`), time in seconds (`_s`) or as the suffix says.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Dialect = str  # "openai" | "anthropic"
UnloadLevel = Literal["sleep"]


class Answer(BaseModel):
    """A shape that another version may have extended: unknown keys are read over."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Request(BaseModel):
    """A shape that we are sent: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelStatus(StrEnum):
    """Where a model is in its life on one neuron. Transitions: cortex_neuron.residency.states."""

    UNLOADED = "unloaded"
    PENDING = "pending"  # its files are not there yet; tried again with back-off
    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"
    SLEEPING = "sleeping"  # its processes live, its weights are in host memory, and nothing of it is on a device
    RECOVERING = "recovering"
    FAILED = "failed"


class NeuronState(StrEnum):
    """What the daemon as a whole is doing."""

    ACTIVATING = "activating"  # preloads are under way; already loaded models are served
    READY = "ready"
    DRAINING = "draining"  # by an operator: serves what is running, takes nothing new
    STOPPING = "stopping"


class DeviceSpec(Answer):
    """One device, as it is built. A CPU host has one device: index 0, name of the CPU, RAM as VRAM."""

    index: int
    name: str
    vram_total_mb: int
    compute_capability: str | None = None  # "8.6"; None on CPU


class Discovery(Answer):
    """GET /discovery"""

    hostname: str
    os: str
    kernel: str
    cuda_version: str | None = None
    driver_version: str | None = None
    driver_problem: str | None = None  # such as "driver/library version mismatch: reboot"
    device_kind: str  # "cuda" | "cpu"
    devices: list[DeviceSpec]
    harnesses: list[str]
    version: str
    sleep_host_memory_mb: int = 0  # that models which sleep may take together; 0: none sleeps here


class DeviceHealth(Answer):
    """One device, as it is now."""

    index: int
    vram_used_mb: int
    vram_free_mb: int
    utilization_pct: int | None = None
    temp_c: int | None = None


class ModelHealth(Answer):
    """One model in /health. Counts are of requests (sequences), cache in blocks."""

    id: str
    status: ModelStatus
    in_flight: int = 0
    queue_depth: int = 0
    kv_blocks_total: int = 0
    kv_blocks_free: int = 0


class Activation(Answer):
    """Progress of the models a neuron loads by itself at start."""

    wanted: list[str] = Field(default_factory=list)
    loaded: list[str] = Field(default_factory=list)
    failed: list[str] = Field(default_factory=list)


class Condition(Answer):
    """What a neuron is doing. Nothing in it counts the time: who does nothing says the same again."""

    state: NeuronState
    activation: Activation
    devices: list[DeviceHealth]
    models: list[ModelHealth]
    version: str


class Health(Condition):
    """GET /health"""

    uptime_secs: float


class Progress(Answer):
    """How far a load is: a phase's name and the share of the whole that is done, 0 to 1."""

    phase: str
    fraction: float


class Failure(Answer):
    """Why a model is not served: a stable kind (docs/protocol.md), the rank that said so, the words."""

    kind: str
    message: str
    rank: int | None = None


class ModelRow(Answer):
    """GET /models (a list of these) and GET /models/{id}"""

    id: str
    harness: str
    status: ModelStatus
    devices: list[int] = Field(default_factory=list)
    vram_used_mb: int = 0
    host_memory_mb: int = 0  # of one that sleeps
    context: int | None = None  # tokens, known once loaded
    task: str | None = None  # generate | embed | rerank; where the catalogue does not say, known once loaded
    progress: Progress | None = None
    failure: Failure | None = None
    retry_after_s: int | None = None
    last_used_at: float | None = None  # when it last served, in seconds since 1970; None if never
    loads: int = 0
    pinned: bool = False  # by an operator (POST /models/pin), until the daemon ends; the inventory's pins are its own


class LoadRequest(Request):
    """POST /models/load. What is left out comes from the catalogue."""

    model_id: str
    harness: str | None = None
    quant: str | None = None
    tensor_parallel: int | None = Field(default=None, ge=1)
    devices: list[int] | None = None


class UnloadRequest(Request):
    """POST /models/unload. With `if_idle` a model that serves somebody, or is being loaded, stays: that is refused.

    With `level` sleep it gives its devices back, and a load wakes it; where it cannot sleep it is unloaded. It goes for
    `newcomer`, which is not the one to make room for its sleep.
    """

    model_id: str
    if_idle: bool = False
    level: UnloadLevel | None = None
    newcomer: str | None = None


class PinRequest(Request):
    """POST /models/pin. Every gateway sees it in the neuron's answers, and evicts the model no more."""

    model_id: str
    pinned: bool = True


class VerifyRequest(Request):
    """POST /models/verify. Without `timeout_s` it may take as long as a load and a step may."""

    model_id: str
    timeout_s: float | None = Field(default=None, gt=0)


class VerifyAnswer(Answer):
    """POST /models/verify: what the model has said, in words where that was no text. `load_s` is 0 where it was loaded
    already."""

    model_id: str
    text: str
    completion_tokens: int
    load_s: float
    completion_s: float


class Report(Answer):
    """GET /report: all that a gateway polls for, in one answer: the same bytes again while nothing changes."""

    health: Condition
    models: list[ModelRow]


class StatusAnswer(Answer):
    """The answer of load, unload and pin."""

    model_id: str
    status: ModelStatus


class EndpointAnswer(Answer):
    """GET /models/{id}/endpoint: the base URL (no trailing slash, no /v1) where it is served."""

    url: str


class StateAnswer(Answer):
    """The answer of /drain and /undrain."""

    state: NeuronState


class VersionAnswer(Answer):
    """GET /version: what runs. Files by name, as SHA-256 in hex of the bytes that were taken up."""

    version: str
    protocol: int
    release: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
