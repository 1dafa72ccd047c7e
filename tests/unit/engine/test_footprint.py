"""What a model takes of a GPU besides its cache. The readings need one; what is made of them does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from thread_ranks import Ranks

from cortex_neuron.engine import decode_graphs, footprint
from cortex_neuron.engine.communicator import Communicator
from cortex_neuron.engine.footprint import Footprint, Largest, Readings, largest_batch, run_largest
from cortex_neuron.engine.kv_cache import CacheSize, Demand, KVCache, size_cache
from cortex_neuron.engine.runner import Runner
from cortex_neuron.models import devices
from cortex_neuron.models.loaded import CacheShape
from cortex_neuron.protocol.failures import CannotLoad

MB = 1 << 20
SHAPE = CacheShape(layers=4, kv_heads=2, head_dim=64, dtype=torch.float32)  # 4 KiB a token, 1 MiB a block of 256
SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2,
}  # fmt: skip


def test_all_that_is_taken_is_counted_once() -> None:
    """Of 1000, weights 300, a step 50 more, libraries 20, graphs 30: 400, and 600 are left for a cache."""
    read = Readings(free_before=1000, free_after=680, kept=300, peak=350, graphs=30)
    assert footprint.footprint(read) == Footprint(taken=400, room=600)


def test_what_others_give_back_meanwhile_is_no_gain() -> None:
    """A model that is unloaded beside it makes the device emptier than before."""
    read = Readings(free_before=1000, free_after=1200, kept=300, peak=350, graphs=0)
    assert footprint.footprint(read).taken == 350


def test_the_cache_takes_no_more_than_the_device_has() -> None:
    """Whatever the catalogue grants: another process may have taken it."""
    assert size_cache(SHAPE, 40 * MB, Demand(100, None, 4096, 64, 20 * MB), 256).num_blocks == 20
    assert size_cache(SHAPE, 40 * MB, Demand(100, None, 4096, 64, 500 * MB), 256).num_blocks == 60
    with pytest.raises(CannotLoad, match=r"the device has 3 MiB left beside the model, .* 1024 tokens takes 4 MiB"):
        size_cache(SHAPE, 40 * MB, Demand(100, 1024, 4096, 64, 3 * MB), 256)
    with pytest.raises(CannotLoad, match=r"vram_mb 41 is too little: the weights and the largest step take 40 MiB"):
        size_cache(SHAPE, 40 * MB, Demand(41, 1024, 4096, 64, 500 * MB), 256)


@pytest.mark.parametrize(("tokens", "sequences"), [(40, 8), (8, 40)])
def test_the_largest_step_has_a_row_for_each_sequence_and_fits_one_block(
    tokens: int, sequences: int, torch_model
) -> None:
    """All tokens come to lie in block 0 again and again."""
    batch = largest_batch(Largest(tokens, sequences), 16)
    assert (batch.num_rows, len(batch.wanted)) == (tokens, min(tokens, sequences))
    assert batch.wanted[-1] == tokens - 1
    assert np.unique(batch.slots // 16).tolist() == [0]
    model = torch_model("llama", SMALL)
    run_largest(Runner(model, KVCache(model.shape, CacheSize(16, 1, 512), model.device), None), Largest(40, 8), 16)


def test_ranks_measure_together_and_each_finds_what_its_own_device_has(
    tmp_path: Path, make_folder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest step takes all of them. The readings are made up; nothing else is."""
    make_folder(tmp_path / "model", "llama", SMALL)
    ranks = Ranks(2)
    models = ranks.load(tmp_path / "model", tmp_path / "text")
    here = threading.local()
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (600 - 100 * here.rank, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 350)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)

    def measured(rank: int, communicator: Communicator) -> tuple[Footprint, int]:
        here.rank = rank
        return footprint.measure(models[rank], Largest(40, 8), 512, 1000), communicator.num_entered

    (first, entered), (second, too) = ranks.run(measured)
    assert (first, second) == (Footprint(taken=450, room=550), Footprint(taken=550, room=450))
    assert entered == too > 1


@pytest.mark.parametrize(("fails", "taken"), [(False, 450 + 40 + 3 * 5), (True, 450)])
def test_two_graphs_tell_what_all_take(
    fails: bool, taken: int, torch_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four sizes the largest takes 40, and the next 5. Where one cannot be recorded there will be none."""
    model, free = torch_model("llama", SMALL), iter([900, 860, 855, 600])

    def record(step: Any) -> Any:
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        return step

    monkeypatch.setattr(decode_graphs, "record_on", lambda _: record)
    monkeypatch.setattr(footprint, "graphs_refusal", lambda *_: None)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(free) if not fails else 600, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 350)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    assert footprint.measure(model, Largest(40, 6), 512, 1000).taken == taken


def test_a_cpu_has_nothing_to_measure() -> None:
    """Nor a host without CUDA, whose load says so."""
    assert devices.free_bytes("cpu") == 0
