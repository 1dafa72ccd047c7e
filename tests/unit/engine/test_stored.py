"""A cache in float8: what is written is what is read, and what does not fit is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.engine.part import with_fp8_cache
from cortex_neuron.layers.stored import FP8, pack, read, write
from cortex_neuron.protocol.failures import CannotLoad

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2,
}  # fmt: skip
PROMPTS = [[5], [7, 9, 11], list(range(4, 60))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8])
def test_rows_are_read_from_the_slots_that_they_were_written_to(dtype: torch.dtype) -> None:
    """In float8 rounded to 3 bits behind the point, and else as they are."""
    computed = torch.float32 if dtype is FP8 else dtype
    cache, rows = torch.zeros(6, 2, 4, dtype=dtype), torch.randn(2, 2, 4).to(computed)
    write(cache, torch.tensor([4, 1]), rows)
    found = read(cache, torch.tensor([1, 4, 0]), computed)
    assert found.dtype is computed
    torch.testing.assert_close(found[:2].flip(0), rows, rtol=0.07 if dtype is FP8 else 0, atol=0.002)
    assert not found[2].any()


def test_what_float8_cannot_hold_is_cut_and_not_made_nan() -> None:
    """At 448 on either side."""
    assert pack(torch.tensor([1e4, -500.0, 3.0]), FP8).float().tolist() == [448.0, -448.0, 3.0]


def test_a_model_with_a_cache_in_float8_answers_nearly_the_same(torch_model, start_with) -> None:
    """Chunked prompts and decoding, over a cache of a quarter of float32's size."""
    model = torch_model("llama", SMALL)
    rounded = replace(model, shape=replace(model.shape, dtype=FP8))
    told = []
    for each in (model, rounded):
        session = start_with(each, blocks=64, sequences=8, step_tokens=24)
        ids = [session.submit(p, max_tokens=1, logprobs=5, ignore_eos=True) for p in PROMPTS]
        session.finish()
        told.append([dict(zip(row.top_ids, row.top, strict=True)) for i in ids for row in session.answers[i].logprobs])
    for exact, near in zip(*told, strict=True):
        shared = exact.keys() & near.keys()
        assert len(shared) >= 2
        assert [near[i] for i in shared] == pytest.approx([exact[i] for i in shared], abs=0.5)
    assert told[0][2] != told[1][2]
    size = CacheSize(16, 4, 64)
    assert (
        KVCache(rounded.shape, size, model.device).num_bytes * 4 == KVCache(model.shape, size, model.device).num_bytes
    )
    with pytest.raises(CannotLoad, match="kv_cache_dtype 'fp8' is for GPUs"):
        with_fp8_cache(model)
