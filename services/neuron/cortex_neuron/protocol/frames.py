"""The frames between the daemon, rank 0 and its tensor-parallel workers; docs/protocol.md describes them.

Owns: names, fields and codec (msgpack). Every frame has `op` (the tag), `v` and `seq`; a reply carries the `seq`
of its request, so that a stale reply is told from a fresh one (case T1). Token ids travel as raw little-endian
int32 bytes. No torch here: both sides of the wall import this.
"""

from __future__ import annotations

import msgspec

from cortex_contracts.inventory.clients import PriorityClass

PROTOCOL_VERSION = 1


class Frame(msgspec.Struct, tag_field="op", frozen=True, kw_only=True):
    """What every frame has."""

    seq: int = 0
    v: int = PROTOCOL_VERSION


# ---- asked of a rank


class Ping(Frame, tag="ping", frozen=True, kw_only=True):
    pass


class Load(Frame, tag="load", frozen=True, kw_only=True):
    """Load a model. `source` is a local folder or GGUF file: fetching from a hub is the daemon's."""

    model_id: str
    source: str
    device: str  # "cpu" | "cuda:0"
    quant: str | None
    vram_mb: int
    context: int | None
    max_sequences: int
    max_step_tokens: int | None
    cpu_threads: int | None
    text_dir: str  # where rank 0 leaves tokenizer.json, chat_template.jinja and generation_config.json


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


class Cancel(Frame, tag="cancel", frozen=True, kw_only=True):
    """End these sequences within a step; no output follows for them."""

    ids: list[int]


class Shutdown(Frame, tag="shutdown", frozen=True, kw_only=True):
    pass


# ---- answered by a rank


class Pong(Frame, tag="pong", frozen=True, kw_only=True):
    rank: int
    world_size: int
    device: str


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


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities for one generated token: the chosen one's, and the best ids with theirs."""

    chosen: float
    top_ids: list[int]
    top: list[float]


class Output(msgspec.Struct, frozen=True, array_like=True):
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


class Stepped(Frame, tag="stepped", frozen=True, kw_only=True):
    """The result of one engine step: one message a step, whatever the batch."""

    outputs: list[Output]
    running: int
    waiting: int
    kv_blocks_free: int
    step_ms: float


class Bye(Frame, tag="bye", frozen=True, kw_only=True):
    pass


class Error(Frame, tag="error", frozen=True, kw_only=True):
    """A request failed (`seq` of it), or with `fatal` the group cannot go on. Kinds: docs/protocol.md."""

    kind: str
    message: str
    rank: int = 0
    fatal: bool = False


ToRank = Ping | Load | Submit | Cancel | Shutdown
FromRank = Pong | LoadProgress | Loaded | Stepped | Bye | Error

_encoder = msgspec.msgpack.Encoder()
_to_rank: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
_from_rank: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)


class FrameInvalid(Exception):
    """A frame that is not one: kind `unknown_op` where the tag is strange, else `bad_request`; `seq` if readable"""

    def __init__(self, kind: str, message: str, seq: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.seq = seq


def encode(frame: ToRank | FromRank) -> bytes:
    """A frame as msgpack bytes."""
    return _encoder.encode(frame)


def decode_to_rank(data: bytes) -> ToRank:
    """Raises FrameInvalid."""
    try:
        return _to_rank.decode(data)
    except msgspec.MsgspecError as error:
        raise _invalid(error, data) from error


def decode_from_rank(data: bytes) -> FromRank:
    """Raises FrameInvalid."""
    try:
        return _from_rank.decode(data)
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
