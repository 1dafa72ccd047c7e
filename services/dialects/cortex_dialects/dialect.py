"""Which API a path speaks, and how that API words errors and keep-alives.

Called by: whoever answers a request before or instead of a projector.
"""

from __future__ import annotations

from collections.abc import Container
from enum import StrEnum

from cortex_contracts.wire.errors import CortexError, anthropic_body, openai_body
from cortex_dialects import sse


class Dialect(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


ANTHROPIC_HEADER = "anthropic-version"  # every client of that API sends it
_OPENAI_ONLY = ("/v1/chat", "/v1/completions")
_OPENAI_KEEPALIVE = sse.comment("keep-alive")
_ANTHROPIC_KEEPALIVE = sse.event("ping", '{"type":"ping"}')


def dialect_of(path: str, headers: Container[str] = ()) -> Dialect:
    """The dialect in which a path is answered: /v1/messages and below is Anthropic's, the rest OpenAI's.

    What both have, such as /v1/models, and what neither has is answered as `headers` (their names) ask for.
    """
    at = path.rstrip("/")
    anthropic = at == "/v1/messages" or at.startswith("/v1/messages/")
    anthropic |= ANTHROPIC_HEADER in headers and not at.startswith(_OPENAI_ONLY)
    return Dialect.ANTHROPIC if anthropic else Dialect.OPENAI


def error_body(dialect: Dialect, error: CortexError) -> bytes:
    """The error as the body of an HTTP answer."""
    envelope = anthropic_body(error) if dialect is Dialect.ANTHROPIC else openai_body(error)
    return envelope.model_dump_json().encode()


def error_event(dialect: Dialect, error: CortexError) -> bytes:
    """The error as the last event of a stream that has begun (case S6)."""
    body = error_body(dialect, error)
    return sse.event("error", body) if dialect is Dialect.ANTHROPIC else sse.data(body)


def keepalive(dialect: Dialect) -> bytes:
    """What to send while there is nothing to say (cases S3, S7)."""
    return _ANTHROPIC_KEEPALIVE if dialect is Dialect.ANTHROPIC else _OPENAI_KEEPALIVE
