"""The fleet as the inventory states it: the one schema for roles, services and commands.

Owns: names, types, defaults and limits of every setting. Does not own: relations between them (problems.py)
or where they are read from. An inventory variable is `gateway_` or `neuron_` and a field's name here; a key of
a rendered TOML file is the field's name alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from cortex_contracts.inventory.clients import Allowance, Anonymous, ApiKey, digest_of
from cortex_contracts.inventory.strict import ModelId, Strict


def _has_port(value: str) -> str:
    port = int(value.rpartition(":")[2])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not in 1 to 65535")
    return value


Port = Annotated[int, Field(ge=1, le=65535)]
Listen = Annotated[
    str,
    Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s\[\]]+):[0-9]{1,5}$", examples=["0.0.0.0:31313", "[::]:31313"]),
    AfterValidator(_has_port),
]
SamplingName = Literal["temperature", "top_p", "top_k", "min_p", "repetition_penalty"]
Harness = Literal["torch", "vllm"]
ToolParser = Literal["hermes", "qwen_xml", "llama3_json", "mistral", "mistral_args", "deepseek_v3", "deepseek_v31"]
Task = Literal["generate", "embed", "rerank"]
AskedTask = Literal["auto", "generate", "embed", "rerank"]
EvictionStrategy = Literal["lru", "priority"]
Seconds = Annotated[float, Field(gt=0)]
Megabytes = Annotated[int, Field(gt=0)]
DeviceList = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
DeviceChoice = Annotated[Literal["all", "cpu"] | DeviceList, Field(examples=["all", "cpu", [0, 1]])]
# Stands in units, in `validate:` and in sockets' addresses: nothing that one of them would take for its own syntax.
OtlpEndpoint = Annotated[str, Field(pattern=r"^(https?://[^\s/]+(/\S*)?)?$", examples=["", "http://127.0.0.1:4318"])]
Folder = Annotated[str, Field(pattern=r"^(/[^/\n'\"%\\$]+)+$", examples=["/opt/cortex/current/bin"])]
Program = Annotated[str, Field(pattern=r"^((/[^/\n]+)+)?$", examples=["", "/opt/vllm/bin/vllm"])]
RayAddress = Annotated[str, Field(pattern=r"^([^:\s]+:[0-9]{1,5})?$", examples=["", "192.0.2.5:6379"])]
# What the neuron itself tells a vLLM server: where it listens, who may ask, and what its model is called.
_NEURONS_ARGUMENTS = frozenset({"--uds", "--host", "--port", "--api-key", "--root-path", "--served-model-name"})


def _not_the_neurons(arguments: tuple[str, ...]) -> tuple[str, ...]:
    for argument in arguments:
        if argument.partition("=")[0] in _NEURONS_ARGUMENTS:
            raise ValueError(f"{argument} is the neuron's to say")
    return arguments


EngineArguments = Annotated[tuple[str, ...], AfterValidator(_not_the_neurons)]


class Speculative(Strict):
    """How answers of a model are drafted ahead; names are those of vLLM's --speculative-config."""

    method: Annotated[
        Literal["ngram", "draft_model"],
        Field(
            description="Where drafts come from; ngram: what the text goes on with where it has been before; "
            "draft_model: what a small model of the same vocabulary says"
        ),
    ]
    model: Annotated[
        str | None,
        Field(min_length=1, description="The draft model, as source has the model itself; method draft_model"),
    ] = None
    num_speculative_tokens: Annotated[int, Field(ge=1, le=64, description="Tokens of a draft at most")] = 8
    prompt_lookup_max: Annotated[
        int,
        Field(
            ge=1, le=32, description="Tokens at its end by which a text finds where it has been, at most; method ngram"
        ),
    ] = 4
    prompt_lookup_min: Annotated[int, Field(ge=1, le=32, description="And at least")] = 2


class Model(Strict):
    """One entry of the catalogue, `cortex_models`."""

    id: Annotated[ModelId, Field(description="Its name; what clients call it")]
    source: Annotated[str, Field(min_length=1, description="Hub repository, local folder, or a GGUF file")]
    harness: Annotated[Harness, Field(description="What runs it")] = "torch"
    task: Annotated[
        AskedTask,
        Field(description="What it is for: to write, to embed, or to rank documents; auto finds out by its files"),
    ] = "auto"
    quant: Annotated[
        str | None,
        Field(
            description="What weights are rounded to: int8 or int4, on a GPU also fp8 (harness torch), or what vLLM "
            "knows; none keeps the file's own"
        ),
    ] = None
    kv_cache_dtype: Annotated[
        Literal["fp8"] | None,
        Field(description="What its KV cache is rounded to, on a GPU; none keeps the type that the model computes in"),
    ] = None
    vram_mb: Annotated[Megabytes, Field(description="Memory the model and its KV cache may take, over all devices")]
    min_devices: Annotated[int, Field(ge=1, description="Devices it needs at least")] = 1
    min_device_vram_mb: Annotated[int, Field(ge=0, description="Free memory each of its devices must have")] = 0
    tensor_parallel: Annotated[int, Field(ge=1, description="Devices that each of its layers is split over")] = 1
    pipeline_parallel: Annotated[int, Field(ge=1, description="Stages its layers are cut into; harness vllm")] = 1
    ray_hosts: Annotated[
        int, Field(ge=1, description="Hosts that share it evenly, found through neuron_vllm_ray_address; harness vllm")
    ] = 1
    engine_args: Annotated[
        EngineArguments, Field(description="Further arguments of `vllm serve`, as they are; harness vllm")
    ] = ()
    pinned_on: Annotated[tuple[str, ...], Field(description="Hosts where it is never evicted")] = ()
    preload_on: Annotated[tuple[str, ...], Field(description="Hosts that load it by themselves at start")] = ()
    priority: Annotated[int, Field(description="Higher stays longer under the priority strategy")] = 0
    aliases: Annotated[tuple[ModelId, ...], Field(description="Other names clients may use")] = ()
    context: Annotated[int | None, Field(gt=0, description="Tokens of context; none takes the model's own")] = None
    sampling: Annotated[
        dict[SamplingName, float],
        Field(description="How its tokens are chosen where a request does not say; above generation_config.json"),
    ] = {}  # noqa: RUF012  pydantic copies it
    capabilities: Annotated[
        tuple[Literal["chat", "completion", "tools", "images"], ...],
        Field(description="What it is good for, shown to clients"),
    ] = ("chat", "completion")

    tool_parser: Annotated[
        ToolParser | None, Field(description="How it writes tool calls; none finds out by its chat template")
    ] = None

    matryoshka: Annotated[
        bool, Field(description="Its vectors may be cut short by `dimensions`, also where its config.json says nothing")
    ] = False
    speculative: Annotated[
        Speculative | None,
        Field(
            description="Drafts of what comes next, several tokens of which one step checks: answers are the same, and "
            "those that repeat what stands in the text come in fewer steps; none drafts nothing"
        ),
    ] = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Where all its files are: its own, and those of a model that drafts for it."""
        drafts = self.speculative.model if self.speculative is not None else None
        return (self.source,) if drafts is None else (self.source, drafts)

    @property
    def span(self) -> int:
        """How many devices of one host it takes."""
        return max(-(-self.tensor_parallel * self.pipeline_parallel // self.ray_hosts), self.min_devices)

    @property
    def host_mb(self) -> int:
        """How much of its memory is on one host."""
        return -(-self.vram_mb // self.ray_hosts)


class GatewaySettings(Strict):
    """What a gateway is told in [gateway] of cortex.toml."""

    listen: Annotated[Listen, Field(description="Address and port of the API")] = "0.0.0.0:31313"
    metrics_listen: Annotated[Listen, Field(description="Address and port of /metrics")] = "0.0.0.0:31314"
    body_limit_mb: Annotated[Megabytes, Field(description="Largest request body")] = 16
    connect_timeout_s: Annotated[Seconds, Field(description="To open a connection to a neuron")] = 2.0
    idle_timeout_s: Annotated[Seconds, Field(description="Between two reads from a neuron; no total limit")] = 60.0
    cold_load_timeout_s: Annotated[Seconds, Field(description="How long a request waits for its model")] = 300.0
    poll_interval_s: Annotated[Seconds, Field(description="Between two polls of a neuron")] = 1.0
    drain_timeout_s: Annotated[Seconds, Field(description="For running requests at shutdown")] = 30.0
    workers: Annotated[int, Field(ge=1, le=64, description="Processes that share the work and the port")] = 1
    queue_limit: Annotated[int, Field(ge=1, description="Requests that may wait for a model to load, per model")] = 1024
    access_log: Annotated[
        Folder | Literal[""],
        Field(
            description="File for one JSON line a request; empty writes them to the log alone",
            examples=["", "/var/log/cortex/access.jsonl"],
        ),
    ] = ""
    otlp_endpoint: Annotated[OtlpEndpoint, Field(description="Where traces go, OTLP over HTTP; empty for nowhere")] = ""


class Gateway(GatewaySettings):
    """A host of the group `gateway`: variables `gateway_*`."""

    eviction_strategy: Annotated[EvictionStrategy, Field(description="Which idle model goes first")] = "lru"
    defrag_after_cycles: Annotated[
        int, Field(ge=0, description="Evictions on a neuron before its groups are recycled when idle; 0 never")
    ] = 50
    api_keys: Annotated[tuple[ApiKey, ...], Field(description="Who may call, and how much; belongs in a vault")] = ()
    admin_key: Annotated[
        SecretStr | None,
        Field(
            description="The key of the operator API, as a key of gateway_api_keys is; inference takes it too, without "
            "limits; none closes that API"
        ),
    ] = None
    anonymous: Annotated[
        Anonymous, Field(description="Requests without a key; auto serves them while there is no key")
    ] = "auto"
    anonymous_allowance: Annotated[Allowance, Field(description="What all requests without a key may use together")] = (
        Allowance()
    )

    @field_validator("admin_key")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            digest_of(value)
        return value


class NeuronSettings(Strict):
    """What a neuron is told in [neuron] of neuron.toml."""

    bind: Annotated[str, Field(min_length=1, description="Address it listens on")] = "0.0.0.0"  # noqa: S104  the gateway is elsewhere
    port: Annotated[Port, Field(description="Port it listens on")] = 13131
    devices: Annotated[DeviceChoice, Field(description="all, cpu, or a list of GPU indexes")] = "all"
    drained: Annotated[bool, Field(description="Start drained: serve nothing until undrained")] = False
    environment: Annotated[
        dict[str, str], Field(description="Environment of engine processes, such as NCCL_SOCKET_IFNAME")
    ] = {}  # noqa: RUF012
    cpu_threads: Annotated[
        int | None, Field(ge=1, description="Threads of an engine process on CPU; none takes the cores")
    ] = None
    max_sequences: Annotated[int, Field(ge=1, description="Sequences a model decodes at once")] = 32
    max_step_tokens: Annotated[
        int | None,
        Field(
            ge=16,
            description="Tokens of one step, prefill chunks included; none is 256 on CPU and 2048 on GPU, or 8192 to "
            "embed",
        ),
    ] = None
    queue_limit: Annotated[int, Field(ge=0, description="Requests that may wait for a seat, per model")] = 128
    body_limit_mb: Annotated[Megabytes, Field(description="Largest request body")] = 16
    load_timeout_s: Annotated[Seconds, Field(description="To load a model, from spawn to ready")] = 900.0
    init_timeout_s: Annotated[
        Seconds, Field(description="Until the ranks of a tensor-parallel model have found together")
    ] = 60.0
    step_timeout_s: Annotated[Seconds, Field(description="For one step; past it the group is killed")] = 120.0
    drain_timeout_s: Annotated[Seconds, Field(description="For running requests at shutdown or unload")] = 30.0
    sleep_host_memory_mb: Annotated[
        int,
        Field(
            ge=0,
            description="Host memory for models that are evicted and sleep, with their weights in it, so that they are "
            "back soon; 0 unloads them",
        ),
    ] = 0
    otlp_endpoint: Annotated[OtlpEndpoint, Field(description="Where traces go, OTLP over HTTP; empty for nowhere")] = ""
    vllm_bin: Annotated[
        Program, Field(description="The program vllm, in an environment of its own; empty where there is none")
    ] = ""
    vllm_ray_address: Annotated[
        RayAddress, Field(description="Ray cluster that this host is in, for models of several ray_hosts")
    ] = ""


class Neuron(NeuronSettings):
    """A host of the group `neurons`: variables `neuron_*`."""

    hub_token: Annotated[
        SecretStr | None,
        Field(description="Token for the model hub, which the daemon alone is given; belongs in a vault"),
    ] = None

    @field_validator("hub_token")
    @classmethod
    def _one_word(cls, value: SecretStr | None) -> SecretStr | None:
        """It goes into a header as it is."""
        text = value.get_secret_value() if value is not None else "-"
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("should be printable ASCII characters without blanks")
        return value


class NeuronHost(Neuron):
    """A neuron with the name and address the inventory gives its host."""

    name: str
    address: str

    @property
    def url(self) -> str:
        """The base URL the gateway uses; no trailing slash."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


class GatewayHost(Gateway):
    """A gateway with the name and address the inventory gives its host."""

    name: str
    address: str


class Fleet(Strict):
    """Everything the inventory declares."""

    gateways: tuple[GatewayHost, ...]
    neurons: tuple[NeuronHost, ...]
    models: tuple[Model, ...]
