"""How many tokens a vLLM server says an answer took. Pure. Called by: answer_stream.py, api/passing_on.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
