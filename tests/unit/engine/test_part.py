"""What the ranks of a group come to when each has loaded its part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thread_ranks import Ranks

from cortex_neuron.engine.communicator import Communicator
from cortex_neuron.engine.part import Part, bring_up
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import Load

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 8192, "eos_token_id": 2,
}  # fmt: skip


def _frame(folder: Path, vram_mb: int, devices: list[str]) -> Load:
    return Load(
        model_id="m", source=str(folder / "model"), devices=devices, quant=None, vram_mb=vram_mb, context=None,
        max_sequences=64, max_step_tokens=None, cpu_threads=2, text_dir=str(folder / "text"), init_timeout_s=30,
        load_timeout_s=30,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, make_folder: Callable[..., Any]) -> Path:
    """One with a small model."""
    make_folder(tmp_path / "model", "llama", SMALL)
    return tmp_path


@pytest.mark.parametrize("least", [0, 1])
def test_all_ranks_take_the_cache_of_the_one_with_least_room(least: int, folder: Path) -> None:
    """Whichever that is. 1 MiB a rank is too little for a whole context, so that shrinks on all, too."""

    def brought(rank: int, communicator: Communicator) -> Part:
        return bring_up(_frame(folder, 2 if rank == least else 16, ["cpu"] * 2), rank, communicator, lambda *_: None)

    def alone(rank: int, communicator: Communicator) -> Part:
        return bring_up(_frame(folder, 2, ["cpu"] * 2), rank, communicator, lambda *_: None)

    first, second = Ranks(2).run(brought)
    assert first.size == second.size == Ranks(2).run(alone)[0].size
    assert first.size.context == first.size.num_blocks * first.size.block_size < SMALL["max_position_embeddings"]


def test_a_rank_without_room_for_a_cache_says_so_itself(folder: Path) -> None:
    """With its own figures, and before it agrees on anything. The others are ended by the daemon."""
    alone = Ranks(2).communicators[1]
    with pytest.raises(CannotLoad, match="vram_mb 0 is too little"):
        bring_up(_frame(folder, 1, ["cpu"] * 2), 1, alone, lambda *_: None)
    assert alone.num_entered == 0
