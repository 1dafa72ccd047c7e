"""How large the cache is, and what is said when it cannot be."""

from __future__ import annotations

import pytest
import torch

from cortex_neuron.engine.kv_cache import CacheSize, Demand, KVCache, size_cache
from cortex_neuron.models.loaded import CacheShape
from cortex_neuron.protocol.failures import CannotLoad

MB = 1 << 20
SHAPE = CacheShape(layers=4, kv_heads=2, head_dim=64, dtype=torch.float32)  # 4 KiB a token, 64 KiB a block of 16


def test_the_cache_takes_what_the_weights_leave() -> None:
    """100 MiB less 60 of weights is 640 blocks."""
    size = size_cache(SHAPE, 60 * MB, Demand(100, None, 4096, 64), 16)
    assert size == CacheSize(block_size=16, num_blocks=640, context=4096)


@pytest.mark.parametrize("context", [None, 512])
@pytest.mark.parametrize("sequences", [1, 2, 64])
def test_a_size_that_is_cut_is_what_less_room_would_have_come_to(context: int | None, sequences: int) -> None:
    """Ranks of a group agree on blocks alone: the context follows. Room for 16 blocks of 16 tokens up to 800."""
    sizes = [
        size_cache(SHAPE, 0, Demand(mb, context, 4096, sequences), 16)
        for mb in (1, 2, 16, 20, 32, 50)[context is not None :]
    ]
    assert all(size.cut_to(least.num_blocks) == least for n, least in enumerate(sizes) for size in sizes[n:])


def test_a_draft_model_s_weights_and_cache_come_out_of_the_same_memory() -> None:
    """100 MiB less 60 and 20 of weights is 20: of 64 and 16 KiB a block 256."""
    demand = Demand(100, None, 4096, 64, draft_bytes=20 * MB, draft_token_bytes=1024)
    assert size_cache(SHAPE, 60 * MB, demand, 16) == CacheSize(block_size=16, num_blocks=256, context=4096)
    with pytest.raises(CannotLoad, match=r"the weights take 80 MiB.* 82 MiB .5120 bytes a token., a draft model incl"):
        size_cache(SHAPE, 60 * MB, Demand(79, None, 4096, 64, draft_bytes=20 * MB, draft_token_bytes=1024), 16)


def test_the_cache_is_no_larger_than_all_sequences_at_full_length() -> None:
    """Two sequences of 512 tokens need 64 blocks."""
    assert size_cache(SHAPE, 0, Demand(1000, 512, 4096, 2), 16).num_blocks == 64


def test_the_context_shrinks_to_the_cache_unless_it_was_asked_for() -> None:
    """What the model could do is cut silently; what the operator wrote is not."""
    assert size_cache(SHAPE, 60 * MB, Demand(64, None, 4096, 4), 16).context == 1024
    with pytest.raises(CannotLoad, match=r"vram_mb 64 .* 60 MiB.* 2048 tokens makes it 68 MiB .4096 bytes a token"):
        size_cache(SHAPE, 60 * MB, Demand(64, 2048, 4096, 4), 16)


def test_weights_that_do_not_fit_are_refused_with_figures() -> None:
    """The error names what is there and what would be needed."""
    with pytest.raises(CannotLoad, match=r"vram_mb 50 is too little: the weights take 60 MiB"):
        size_cache(SHAPE, 60 * MB, Demand(50, None, 4096, 4), 16)


def test_a_context_beyond_the_model_is_refused() -> None:
    """The model was not made for it."""
    with pytest.raises(CannotLoad, match=r"context 8192 is more than the 4096 tokens of the model"):
        size_cache(SHAPE, 0, Demand(1000, 8192, 4096, 4), 16)


def test_the_tensors_are_zero_and_of_the_size_that_is_reported() -> None:
    """Garbage that happens to be NaN would spread through masked keys."""
    cache = KVCache(SHAPE, CacheSize(16, 3, 48), torch.device("cpu"))
    assert sum(t.nbytes for t in (*cache.keys, *cache.values)) == cache.num_bytes == 3 * 16 * SHAPE.token_bytes
    assert all(not t.any() for t in (*cache.keys, *cache.values))
