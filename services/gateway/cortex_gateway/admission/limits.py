"""Whether a client may begin one more request, and how its answer tells of what is left.

Owns: the decision and the headers that SDKs know. Pure: what was used and the time are passed in. Called by: meter.py.
"""

from __future__ import annotations

import time
from enum import StrEnum

from cortex_contracts.inventory.clients import Allowance
from cortex_dialects.dialect import Dialect
from cortex_gateway.admission.ledger import Used


class Limit(StrEnum):
    """What a client may have too much of, as a metric's label."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


def exceeded(allowance: Allowance, used: Used) -> Limit | None:
    """The limit that keeps one more request out. Of tokens one must be left: what it will use is known at its end."""
    if allowance.requests_per_minute is not None and used.requests >= allowance.requests_per_minute:
        return Limit.REQUESTS
    if allowance.tokens_per_minute is not None and used.tokens >= allowance.tokens_per_minute:
        return Limit.TOKENS
    if allowance.concurrent_requests is not None and used.running >= allowance.concurrent_requests:
        return Limit.CONCURRENT
    return None


def headers(
    dialect: Dialect, allowance: Allowance, used: Used, resets_s: tuple[float, float], now_s: float
) -> dict[str, str]:
    """What is left of the limits by the minute, in the dialect's words.

    `resets_s` are the seconds until all requests and all tokens are back, `now_s` is the time since 1970.
    """
    told: dict[str, str] = {}
    limits = (
        (Limit.REQUESTS, allowance.requests_per_minute, used.requests),
        (Limit.TOKENS, allowance.tokens_per_minute, used.tokens),
    )
    for (kind, limit, count), reset_s in zip(limits, resets_s, strict=True):
        if limit is None:
            continue
        left = str(max(0, limit - count))
        if dialect is Dialect.ANTHROPIC:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + reset_s))
            told[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
            told[f"anthropic-ratelimit-{kind}-remaining"] = left
            told[f"anthropic-ratelimit-{kind}-reset"] = at
        else:
            told[f"x-ratelimit-limit-{kind}"] = str(limit)
            told[f"x-ratelimit-remaining-{kind}"] = left
            told[f"x-ratelimit-reset-{kind}"] = f"{reset_s:.3g}s"
    return told
