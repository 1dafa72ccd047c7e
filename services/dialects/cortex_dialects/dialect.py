"""Which API a path speaks, and how that API words errors and keep-alives.

Called by: whoever answers a request before or instead of a projector.
"""

from __future__ import annotations

import json
from collections.abc import Container
from enum import StrEnum

from cortex_contracts.wire.errors import CortexError, anthropic_body, openai_body, responses_event
from cortex_dialects import sse


class Dialect(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    RESPONSES = "responses"  # OpenAI's newer API: its errors are OpenAI's, its streams are its own


ANTHROPIC_HEADER = "anthropic-version"  # every client of that API sends it
_OPENAI_ONLY = ("/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/rerank")
_OPENAI_KEEPALIVE = sse.comment("keep-alive")
_ANTHROPIC_KEEPALIVE = sse.event("ping", '{"type":"ping"}')


def dialect_of(path: str, headers: Container[str] = ()) -> Dialect:
    """The dialect in which a path is answered: /v1/messages and below is Anthropic's, the rest OpenAI's, in which
    /v1/responses and below is one of its own.

    What both have, such as /v1/models, and what neither has is answered as `headers` (their names) ask for.
    """
    at = path.rstrip("/")
    if _is_at(at, "/v1/responses"):
        return Dialect.RESPONSES
    anthropic = _is_at(at, "/v1/messages")
    anthropic |= ANTHROPIC_HEADER in headers and not at.startswith(_OPENAI_ONLY)
    return Dialect.ANTHROPIC if anthropic else Dialect.OPENAI


def _is_at(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def error_body(dialect: Dialect, error: CortexError) -> bytes:
    """The error as the body of an HTTP answer."""
    envelope = anthropic_body(error) if dialect is Dialect.ANTHROPIC else openai_body(error)
    return envelope.model_dump_json().encode()


def error_event(dialect: Dialect, error: CortexError, number: int = 0) -> bytes:
    """The error as the last event of a stream that has begun (case S6). Events of a response have numbers."""
    return envelope_event(dialect, error_body(dialect, error), number)


def envelope_event(dialect: Dialect, body: bytes, number: int = 0) -> bytes:
    """The same of an error that has a body already, such as another server's."""
    match dialect:
        case Dialect.OPENAI:
            return sse.data(body)
        case Dialect.ANTHROPIC:
            return sse.event("error", body)
        case Dialect.RESPONSES:
            return sse.event("error", responses_event(_envelope(body), number).model_dump_json())


def _envelope(body: bytes) -> object:
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return envelope.get("error") if isinstance(envelope, dict) else None


def keepalive(dialect: Dialect) -> bytes:
    """What to send while there is nothing to say (cases S3, S7)."""
    return _ANTHROPIC_KEEPALIVE if dialect is Dialect.ANTHROPIC else _OPENAI_KEEPALIVE
