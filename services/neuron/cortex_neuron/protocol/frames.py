"""The frames between the daemon, rank 0 and its tensor-parallel workers; docs/protocol.md describes them.

Owns: names, fields and codec (msgpack). Every frame has `op` (the tag), `v` and `seq`; a reply carries the `seq`
of its request, so that a stale reply is told from a fresh one (case T1). Token ids travel as raw little-endian
int32 bytes. No torch here: both sides of the wall import this.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.inventory.fleet import Task

PROTOCOL_VERSION = 3
INT32 = 4  # bytes


class Frame(msgspec.Struct, tag_field="op", frozen=True, kw_only=True):
    """What every frame has."""

    seq: int = 0
    v: int = PROTOCOL_VERSION


# ---- asked of a rank


class Ping(Frame, tag="ping", frozen=True, kw_only=True):
    pass


Mode = Literal["mean", "cls", "last"]


class Pooling(msgspec.Struct, frozen=True, kw_only=True):
    """How one vector is made of a text's: the mean of them, the first's, or the last's."""

    mode: Mode
    normalize: bool = True
    limit: int | None = None  # tokens of the longest text, where the model's files say less than it has positions


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """How drafts are made: by prompt lookup (engine.prompt_lookup), or by the model of `source` (engine.draft_model).

    Only rank 0 has that model. The leader tells its workers how much it takes: where nothing is measured, each leaves
    as much room.
    """

    num_speculative_tokens: int
    prompt_lookup_min: int
    prompt_lookup_max: int
    source: str | None = None  # a local folder or GGUF file
    weight_bytes: int = 0
    token_bytes: int = 0  # of its KV cache


class Load(Frame, tag="load", frozen=True, kw_only=True):
    """Load a model. `source` is a local folder or GGUF file: fetching from a hub is the daemon's.

    Each rank has a device of its own and its share of `vram_mb`. The leader tells its workers by the same frame.
    """

    model_id: str
    source: str
    devices: list[str]  # by rank: "cpu" | "cuda:0"
    quant: str | None
    vram_mb: int
    context: int | None
    max_sequences: int
    max_step_tokens: int | None
    cpu_threads: int | None  # of all ranks
    text_dir: str  # where rank 0 leaves tokenizer.json, chat_template.jinja and generation_config.json
    init_timeout_s: float  # until the ranks have found together, and again until they were seen to compute together
    load_timeout_s: float  # what is left for the workers to load, once they have
    task: Task = "generate"
    pooling: Pooling | None = None  # with task embed
    speculative: Speculation | None = None
    kv_cache_dtype: Literal["fp8"] | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Fully resolved: what the client said, then generation_config.json, then these defaults (case W9)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """From where on a grammar binds: one of these tokens, outside of thoughts. The grammar begins with it."""

    tokens: list[int]
    thought: tuple[int, int] | None = None  # the tokens that begin and end one
    in_thought: bool = False  # the prompt ends within one
    required: bool = True  # who cannot have the grammar is refused; else it goes on without


class Submit(Frame, tag="submit", frozen=True, kw_only=True):
    """Start a sequence. `id` is unique in the group's life; prompt is int32 bytes."""

    id: int
    prompt: bytes
    max_tokens: int
    sampling: SamplingParams
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    priority: PriorityClass = "normal"
    grammar: str | None = None  # what the answer must keep to, in llguidance's words
    opening: Opening | None = None  # of the grammar; without one it binds from the first token on


class Encode(Frame, tag="encode", frozen=True, kw_only=True):
    """Make a vector of each of these inputs, or a score; sequences `id` and those after it. Fields of int32 bytes."""

    id: int
    tokens: bytes  # of all inputs, one after the other
    lengths: bytes  # tokens of each
    types: bytes = b""  # segment of each token, of a pair of texts
    dimensions: int | None = None  # of a vector: so many of its first numbers, brought back to length 1
    priority: PriorityClass = "normal"


class Cancel(Frame, tag="cancel", frozen=True, kw_only=True):
    """End these sequences within a step; no output follows for them."""

    ids: list[int]


class Shutdown(Frame, tag="shutdown", frozen=True, kw_only=True):
    pass


class Sleep(Frame, tag="sleep", frozen=True, kw_only=True):
    """Give the device's memory back: weights go to host memory, the KV cache goes. Sequences that are left go with it.

    The leader tells its workers by the same frame.
    """

    timeout_s: float


class Wake(Frame, tag="wake", frozen=True, kw_only=True):
    """Weights back to where they were, and a KV cache anew. The leader tells its workers by the same frame."""

    timeout_s: float


class Measure(Frame, tag="measure", frozen=True, kw_only=True):
    """Find together as for a load, where that has not been, then time all-reduces of so many bytes (doctor)."""

    devices: list[str]  # by rank: "cpu" | "cuda:0"
    num_bytes: int
    init_timeout_s: float
    timeout_s: float  # for the all-reduces


# ---- asked of a worker by its leader, rank 0


class Init(Frame, tag="init", frozen=True, kw_only=True):
    """Join the communicator of this id, 256 hex characters (engine.communicator)."""

    comm_id: str
    world_size: int
    devices: list[str]
    timeout_s: float


class SanityCheck(Frame, tag="sanity_check", frozen=True, kw_only=True):
    """Add 1 to what every rank adds."""


class Step(Frame, tag="step", frozen=True, kw_only=True):
    """Compute this batch. Every field is int32 bytes; spans follow each other in the flat ones."""

    tokens: bytes  # of all spans
    lengths: bytes  # tokens of each span
    pasts: bytes  # tokens of each span that are in the cache
    tables: bytes  # blocks of all spans
    table_lengths: bytes  # blocks of each span
    wanted: bytes  # of all tokens, by place, those after which logits are wanted


class Resume(Frame, tag="resume", frozen=True, kw_only=True):
    """The step that failed, `step`, failed alike on every rank: what follows is computed together again."""

    step: int


# ---- answered by a rank


class Pong(Frame, tag="pong", frozen=True, kw_only=True):
    """`entered` counts the collectives it has begun: of ranks that wait for each other, the least is the late one."""

    rank: int
    world_size: int
    device: str
    entered: int = 0


TEXT_IS_THERE = "weights"  # the phase that begins once the files in `text_dir` are whole


class LoadProgress(Frame, tag="progress", frozen=True, kw_only=True):
    phase: str
    fraction: float


class Loaded(Frame, tag="loaded", frozen=True, kw_only=True):
    """Ready to serve."""

    vram_mb: int
    context: int
    vocab_size: int
    block_size: int  # tokens of a KV block
    kv_blocks: int
    eos_ids: list[int]
    vector_size: int = 0  # numbers of a vector; of a model that makes none, 0
    backend: str = ""  # what attends and why, for the log
    weights_mb: int = 0  # of `vram_mb`: what goes to host memory when it sleeps


class Asleep(Frame, tag="asleep", frozen=True, kw_only=True):
    """It sleeps. The leader's `host_mb` is that of all ranks."""

    host_mb: int


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities for one generated token: the chosen one's, and the best ids with theirs."""

    chosen: float
    top_ids: list[int]
    top: list[float]


class Output(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step gave one sequence. `finish` None: it goes on. The eos token itself is in `tokens`."""

    id: int
    tokens: list[int]
    finish: str | None = None  # "stop" (eos) | "length" | "error"
    logprobs: list[TokenLogprobs] | None = None
    error_kind: str | None = None
    error: str | None = None
    cached_tokens: int = 0  # set with the first output
    queue_ms: float = 0.0  # set with the first output
    prefill_ms: float = 0.0  # set with the first output
    vector: bytes | None = None  # little-endian float32; of an encoded input alone
    opened_at: int | None = None  # which of the tokens is the opening of the grammar


class Stepped(Frame, tag="stepped", frozen=True, kw_only=True):
    """The result of one engine step: one message a step, whatever the batch."""

    outputs: list[Output]
    running: int
    waiting: int
    kv_blocks_free: int
    step_ms: float
    drafted: int = 0  # tokens, since the load
    accepted: int = 0  # of these


class Measured(Frame, tag="measured", frozen=True, kw_only=True):
    """What each sample took, by the rank that was last."""

    seconds: list[float]


class Bye(Frame, tag="bye", frozen=True, kw_only=True):
    pass


class Error(Frame, tag="error", frozen=True, kw_only=True):
    """A request failed (`seq` of it), or with `fatal` the group cannot go on. Kinds: docs/protocol.md."""

    kind: str
    message: str
    rank: int = 0
    fatal: bool = False
    entered: int = 0  # of a worker's step: collectives it had begun in it


# ---- answered by a worker to its leader


class InitOk(Frame, tag="init_ok", frozen=True, kw_only=True):
    pass


class SanityResult(Frame, tag="sanity_result", frozen=True, kw_only=True):
    observed_sum: int


class StepDone(Frame, tag="step_done", frozen=True, kw_only=True):
    pass


ToRank = Ping | Load | Submit | Encode | Cancel | Sleep | Wake | Shutdown | Measure
FromRank = Pong | LoadProgress | Loaded | Asleep | Stepped | Bye | Error | Measured
ToWorker = Ping | Init | SanityCheck | Load | Step | Resume | Sleep | Wake | Shutdown | Measure
FromWorker = Pong | InitOk | SanityResult | Loaded | Asleep | StepDone | Bye | Error | Measured
AnyFrame = ToRank | FromRank | ToWorker | FromWorker

_encoder = msgspec.msgpack.Encoder()
_to_rank: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
_from_rank: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_Read = TypeVar("_Read")


class FrameInvalid(Exception):
    """A frame that is not one: kind `unknown_op` where the tag is strange, else `bad_request`; `seq` if readable"""

    def __init__(self, kind: str, message: str, seq: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.seq = seq


def encode(frame: AnyFrame) -> bytes:
    """A frame as msgpack bytes."""
    return _encoder.encode(frame)


def decode_to_rank(data: bytes) -> ToRank:
    """Raises FrameInvalid."""
    return _decoded(_to_rank, data)


def decode_from_rank(data: bytes) -> FromRank:
    """Raises FrameInvalid."""
    return _decoded(_from_rank, data)


def decode_to_worker(data: bytes) -> ToWorker:
    """Raises FrameInvalid."""
    return _decoded(_to_worker, data)


def decode_from_worker(data: bytes) -> FromWorker:
    """Raises FrameInvalid."""
    return _decoded(_from_worker, data)


def _decoded(decoder: msgspec.msgpack.Decoder[_Read], data: bytes) -> _Read:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise _invalid(error, data) from error


class _Envelope(msgspec.Struct):
    """What can still be read of a frame that is not one."""

    seq: int = 0


def _invalid(error: msgspec.MsgspecError, data: bytes) -> FrameInvalid:
    try:
        seq = msgspec.msgpack.decode(data, type=_Envelope).seq
    except msgspec.MsgspecError:
        seq = 0
    kind = "unknown_op" if "Invalid value" in str(error) and "$.op" in str(error) else "bad_request"
    return FrameInvalid(kind, str(error), seq)
