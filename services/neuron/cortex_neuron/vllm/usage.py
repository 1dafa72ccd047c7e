"""What a vLLM server says of an answer: how many tokens it took, and why it ended. Pure.

Called by: answer_stream.py, api/passing_on.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from cortex_contracts.wire.errors import UpstreamBroken


@dataclass(frozen=True, slots=True)
class Tokens:
    """0 where it has not said."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def tokens_of(usage: Any) -> Tokens:
    """From the `usage` of an answer; leniently, for it is not ours."""
    fields = usage if isinstance(usage, dict) else {}
    details = fields.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Tokens(_count(fields.get("prompt_tokens")), _count(fields.get("completion_tokens")), _count(cached))


def read_document(body: bytes) -> tuple[Tokens, str | None]:
    """Of an answer that was not streamed: its tokens, and why it ended. Raises UpstreamBroken where it is none."""
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
        reasons = [choice.get("finish_reason") for choice in found["choices"]]
    except (
        msgspec.MsgspecError,
        UnicodeDecodeError,
        RecursionError,
        LookupError,
        TypeError,
        AttributeError,
    ) as failure:
        raise UpstreamBroken(f"vllm sent what is no answer: {body[:200]!r}") from failure
    return tokens_of(found.get("usage")), next(filter(None, reasons), None)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
