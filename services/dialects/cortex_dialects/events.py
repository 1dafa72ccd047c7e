"""The one stream of events behind every answer, streamed or not, in either dialect.

Order for a choice: any number of deltas, then one Finished. After the last Finished one Usage ends the stream.
A Failed may come at any point and is then the last event: nothing after it, no [DONE], no message_stop (case S6).
Made by: the neuron from engine output, the gateway from an OpenAI-only engine's chunks. Read by: projectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cortex_contracts.wire.errors import CortexError

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's text, its UTF-8 bytes and natural-log probability; `top` are alternatives, best first."""

    token: str
    token_bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More answer text of choice `index`; may be empty when it only carries ids or log-probabilities."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning; never part of the answer text (case S4)."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of tool call `call` of choice `index`; the first of a call carries `id` and `name`.

    A call ends where another delta, another call's or Finished follows.
    """

    index: int
    call: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Choice `index` is complete. `stop_sequence` is the client's stop string that ended it, if one did."""

    index: int
    reason: FinishReason
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and times of the whole request. Times are engine wall time in milliseconds."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion's
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """The request broke after it was accepted."""

    error: CortexError


Event = TextDelta | ReasoningDelta | ToolCallDelta | Finished | Usage | Failed
