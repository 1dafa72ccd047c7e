"""Who may call a gateway and how much: API keys and what each allows.

Owns: the shapes, for the inventory (where keys are secrets) and for keys.toml (where only their digests are). Does not
own: judging a request by them (cortex_gateway.admission).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from cortex_contracts.inventory.strict import ModelId, Strict

PriorityClass = Literal["low", "normal", "high"]
Anonymous = Literal["auto", "allow", "refuse"]
KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.@-]*$", max_length=64, examples=["alice", "ci-bot"])]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

DIGEST_PREFIX = "sha256:"
SHORTEST_KEY = 16
MOST_KEYS = 1000  # of one gateway
NO_KEY = "anonymous"  # the name that requests without a key go by
OPERATOR = "operator"  # that of requests with the admin key


class Allowance(Strict):
    """What a client may use; what is not said has no limit."""

    models: Annotated[tuple[ModelId, ...], Field(description="Models it may use, by id or alias; none means all")] = ()
    requests_per_minute: Annotated[int | None, Field(gt=0, description="Requests it may begin in a minute")] = None
    tokens_per_minute: Annotated[
        int | None, Field(gt=0, description="Tokens, of prompts and answers, that it may use in a minute")
    ] = None
    concurrent_requests: Annotated[int | None, Field(gt=0, description="Requests it may have under way at once")] = None
    priority: Annotated[PriorityClass, Field(description="Who is served first where requests wait")] = "normal"


class ApiKey(Allowance):
    """One entry of `gateway_api_keys`, which belongs in a vault."""

    name: Annotated[KeyName, Field(description="Whose it is; what logs and metrics call it")]
    key: Annotated[
        SecretStr,
        Field(description="The key, of 16 characters or more, or `sha256:` and its digest in hex"),
    ]

    @field_validator("key")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr) -> SecretStr:
        digest_of(value)
        return value


class KeyEntry(Allowance):
    """[[keys]] of keys.toml"""

    name: KeyName
    sha256: Digest

    @classmethod
    def of(cls, key: ApiKey) -> KeyEntry:
        """What a gateway's host is told of a key."""
        return cls(sha256=digest_of(key.key), **key.model_dump(exclude={"key"}))


def digest_of(secret: SecretStr) -> str:
    """SHA-256 of a key, in hex. Raises ValueError, without the key in it.

    A fast digest is enough: keys are random, not words that somebody could try.
    """
    text = secret.get_secret_value()
    if text.startswith(DIGEST_PREFIX):
        digest = text.removeprefix(DIGEST_PREFIX)
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"after {DIGEST_PREFIX} there should be 64 hexadecimal digits in lower case")
        return digest
    if len(text) < SHORTEST_KEY or text != text.strip() or not text.isascii() or not text.isprintable():
        raise ValueError(f"should be {SHORTEST_KEY} or more printable ASCII characters without blanks around them")
    return hashlib.sha256(text.encode()).hexdigest()
