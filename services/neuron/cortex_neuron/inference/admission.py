"""Whether a request is taken, decided before any header is sent (cases S10, L10). Pure. Called by: preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cortex_contracts.wire.errors import CacheTooSmall, ContextLengthExceeded, InvalidParameter, QueueFull


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a loaded model has: tokens of context, blocks of KV cache."""

    context: int
    block_size: int
    kv_blocks: int


def max_tokens(prompts: Sequence[int], asked: int | None, capacity: Capacity, param: str) -> list[int]:
    """How many tokens each prompt, of so many tokens, may be answered with. `param` is where the prompts were given.

    Raises ContextLengthExceeded or CacheTooSmall, with the figures.
    """
    return [_room(prompt, asked, capacity, param) for prompt in prompts]


def check_seats(wanted: int, taken: int, seats: int) -> None:
    """Seats are for sequences that run or wait. Raises QueueFull; InvalidParameter where waiting would never help."""
    if wanted > seats:
        raise InvalidParameter(f"n: {wanted} answers at once; this model has {seats} seats", param="n")
    if taken + wanted > seats:
        raise QueueFull(f"all {seats} seats of this model are taken")


def _room(prompt: int, asked: int | None, capacity: Capacity, param: str) -> int:
    left = capacity.context - prompt
    if left < 1:
        raise ContextLengthExceeded(
            f"the prompt has {prompt} tokens; this model's context is {capacity.context} tokens, the answer's included",
            param=param,
        )
    if asked is not None and asked > left:
        raise ContextLengthExceeded(
            f"the prompt has {prompt} tokens and max_tokens is {asked}, together {prompt + asked}; "
            f"this model's context is {capacity.context} tokens",
            param="max_tokens",
        )
    cache = capacity.block_size * capacity.kv_blocks
    needed = prompt + (asked or 1)
    if needed > cache:
        raise CacheTooSmall(f"the request needs a KV cache of {needed} tokens; this model's holds {cache}")
    return asked if asked is not None else min(left, cache - prompt)
