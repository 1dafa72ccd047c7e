"""The answers of an engine that speaks only OpenAI (vLLM) as events, for a projector of another dialect.

Owns: reading chat chunks, chat documents and error envelopes of servers that are not ours: leniently, but an answer
that stops without its end is broken (case S6). Called by: the gateway.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum, auto
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from cortex_contracts.wire import errors
from cortex_contracts.wire.errors import CortexError, UpstreamBroken
from cortex_dialects.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from cortex_dialects.sse import EventReader

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BY_STATUS: dict[int, type[CortexError]] = {
    400: errors.InvalidRequest,
    401: errors.UpstreamBroken,  # the gateway's own credentials, not the client's
    403: errors.UpstreamBroken,
    404: errors.ModelNotFound,
    413: errors.BodyTooLarge,
    429: errors.QueueFull,
    503: errors.Unavailable,
    504: errors.UpstreamTimeout,
}
_MAX_QUOTED = 300


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int | None = None  # absent in documents
    id: str | None = None
    function: _Function = _Function()


class _Turn(BaseModel):
    """A chunk's delta or a document's message. vLLM has renamed reasoning_content to reasoning."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Token(BaseModel):
    token: str = ""
    logprob: float = 0.0
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None
    top_logprobs: list[_Token] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    index: int = 0
    delta: _Turn | None = None
    message: _Turn | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None  # vLLM's: the stop string, or the id of the stop token


class _CachedTokens(BaseModel):
    cached_tokens: int | None = None


class _ReasoningTokens(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    completion_tokens_details: _ReasoningTokens | None = None
    prompt_tokens_details: _CachedTokens | None = None


class _Answer(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _State(Enum):
    """READING → DONE at [DONE], READING → FAILED at an error; both are final."""

    READING = auto()
    DONE = auto()
    FAILED = auto()


class ChatStreamReader:
    """Reads one stream of chat chunks. What comes after its end or its first error is not looked at."""

    def __init__(self) -> None:
        self._reader = EventReader()
        self._state = _State.READING
        self._usage = Usage(0, 0)
        self._num_finished = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete now."""
        found: list[Event] = []
        for sent in self._reader.feed(chunk):
            if sent.data is not None and self._state is _State.READING:
                found += self._read(sent.data)
        return found

    def end(self) -> list[Event]:
        """To be called when the engine's stream is over: a Failed if that was too early."""
        if self._state is not _State.READING:
            return []
        return self._fail(UpstreamBroken("The engine's stream ended before its [DONE]"))

    def _read(self, data: str) -> list[Event]:
        if data == "[DONE]":
            if not self._num_finished:
                return self._fail(UpstreamBroken("The engine's stream was done before any answer was finished"))
            self._state = _State.DONE
            return [self._usage]
        try:
            answer = _Answer.model_validate_json(data)
        except ValidationError:
            return self._fail(UpstreamBroken(f"The engine sent what is no chat chunk: {data[:_MAX_QUOTED]!r}"))
        if answer.error is not None:
            return self._fail(_envelope_error(_status(answer.error), answer.error, None))
        if answer.usage is not None:
            self._usage = _usage(answer.usage)
        return self._keep([event for choice in answer.choices for event in _choice_events(choice)])

    def _keep(self, found: list[Event]) -> list[Event]:
        for i, event in enumerate(found):
            if isinstance(event, Failed):
                self._state = _State.FAILED
                return found[: i + 1]
        self._num_finished += sum(isinstance(event, Finished) for event in found)
        return found

    def _fail(self, error: CortexError) -> list[Event]:
        self._state = _State.FAILED
        return [Failed(error)]


def chat_document_to_events(body: bytes) -> list[Event]:
    """A chat completion that was not streamed. Ends with Usage, or with Failed."""
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        return [Failed(UpstreamBroken(f"The engine's answer is no chat completion: {body[:_MAX_QUOTED]!r}"))]
    found = [event for choice in answer.choices for event in _choice_events(choice)]
    failures = [event for event in found if isinstance(event, Failed)]
    if failures:
        return [failures[0]]
    if answer.error is not None or not found or not isinstance(found[-1], Finished):
        return [Failed(UpstreamBroken(f"The engine's answer is not finished: {body[:_MAX_QUOTED]!r}"))]
    return [*found, _usage(answer.usage or _Usage())]


def chat_error_to_error(status: int, body: bytes, retry_after: str | None) -> CortexError:
    """An engine's non-2xx answer as the error that the client is told; Retry-After survives (case W7)."""
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        envelope = body[:_MAX_QUOTED].decode(errors="replace")
    error = envelope.get("error", envelope) if isinstance(envelope, dict) else envelope
    return _envelope_error(status, error, retry_after)


def _choice_events(choice: _Choice) -> Iterator[Event]:
    turn = choice.delta or choice.message or _Turn()
    if reasoning := turn.reasoning_content or turn.reasoning:
        yield ReasoningDelta(choice.index, reasoning)
    logprobs = tuple(map(_logprob, (choice.logprobs and choice.logprobs.content) or ()))
    if turn.content or logprobs:
        yield TextDelta(choice.index, turn.content or "", logprobs)
    for position, call in enumerate(turn.tool_calls or ()):
        number = position if call.index is None else call.index
        function = call.function
        yield ToolCallDelta(choice.index, number, function.arguments or "", call.id, function.name)
    if choice.finish_reason is not None:
        yield _end(choice, choice.finish_reason)


def _logprob(token: _Token) -> TokenLogprob:
    said = token.token.encode(errors="replace") if token.bytes is None else bytes(token.bytes)
    return TokenLogprob(token.token, said, token.logprob, tuple(map(_logprob, token.top_logprobs or ())))


def _end(choice: _Choice, finish_reason: str) -> Event:
    reason = _FINISH_REASONS.get(finish_reason)
    if reason is None:
        return Failed(UpstreamBroken(f"The engine ended the answer with finish_reason {finish_reason!r}"))
    return Finished(choice.index, reason, choice.stop_reason if isinstance(choice.stop_reason, str) else None)


def _usage(usage: _Usage) -> Usage:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    reasoning = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, cached or 0, reasoning or 0)


def _envelope_error(status: int, error: object, retry_after: str | None) -> CortexError:
    fields = error if isinstance(error, dict) else {}
    message = str(fields.get("message") or error or "The engine gave no reason")
    param = fields.get("param")
    fallback = UpstreamBroken if status >= 500 else errors.InvalidRequest
    kind = errors.by_code(fields.get("code")) or _BY_STATUS.get(status, fallback)
    if kind is errors.InvalidRequest and "context length" in message.lower():
        kind = errors.ContextLengthExceeded  # vLLM has no code for it
    return kind(
        message,
        param=param if isinstance(param, str) else None,
        retry_after_s=int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None,
    )


def _status(error: object) -> int:
    """vLLM puts the HTTP status into `code` of an error inside a stream."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 502
