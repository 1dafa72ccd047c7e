"""What a request is told before a header is sent (cases L10, S10)."""

from __future__ import annotations

import pytest

from cortex_contracts.wire.errors import CacheTooSmall, ContextLengthExceeded, InvalidParameter, QueueFull
from cortex_neuron.inference.admission import Capacity, check_seats, max_tokens

SMALL = Capacity(context=100, block_size=16, kv_blocks=100)


def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long() -> None:
    """The figures are in the words, so that a client can cut its prompt."""
    with pytest.raises(ContextLengthExceeded, match=r"prompt has 100 tokens.*context is 100") as caught:
        max_tokens([100], None, SMALL, "prompt")
    assert caught.value.param == "prompt"
    assert max_tokens([99], None, SMALL, "prompt") == [1]


def test_an_answer_that_does_not_fit_is_refused_not_cut() -> None:
    """Someone who asks for 50 tokens must not be given 40."""
    with pytest.raises(ContextLengthExceeded, match=r"60 tokens and max_tokens is 50, together 110"):
        max_tokens([60], 50, SMALL, "prompt")
    assert max_tokens([60], 40, SMALL, "prompt") == [40]


def test_without_a_limit_the_answer_may_take_what_context_and_cache_leave() -> None:
    """Both bounds hold, for each prompt by itself."""
    assert max_tokens([10, 90], None, SMALL, "prompt") == [90, 10]
    assert max_tokens([10], None, Capacity(context=100, block_size=16, kv_blocks=2), "prompt") == [22]


def test_what_the_cache_can_never_hold_is_413() -> None:
    """Waiting would not help: the whole cache is too small."""
    tiny = Capacity(context=100, block_size=16, kv_blocks=2)
    with pytest.raises(CacheTooSmall, match=r"needs a KV cache of 40 tokens; this model's holds 32"):
        max_tokens([20], 20, tiny, "prompt")
    with pytest.raises(CacheTooSmall):
        max_tokens([32], None, tiny, "prompt")


def test_full_seats_are_503_and_more_than_all_seats_is_400() -> None:
    """Busy passes; asking for more answers than there are seats never will."""
    check_seats(2, taken=6, seats=8)
    with pytest.raises(QueueFull) as full:
        check_seats(3, taken=6, seats=8)
    assert full.value.retry_after_s
    with pytest.raises(InvalidParameter, match="9 answers at once"):
        check_seats(9, taken=0, seats=8)
