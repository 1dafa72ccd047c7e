"""Steps recorded as graphs: sizes, padding, and that a model comes out the same. Recording itself needs CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paged_reference
import pytest
import torch

from cortex_neuron.engine import decode_graphs, runner
from cortex_neuron.engine.decode_graphs import padded, sizes
from cortex_neuron.layers import page_kernels
from cortex_neuron.layers.backend import Backend, Kernel
from cortex_neuron.layers.batch import Tables, make_batch

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2, "sliding_window": 11,
}  # fmt: skip
PROMPTS = [[5], [7, 9, 11], [8, 9] * 8, list(range(4, 37)), list(range(4, 90))]


@pytest.mark.parametrize("most", [1, 3, 4, 20, 64, 256, 300, 512, 4000])
def test_every_batch_up_to_the_most_has_a_graph_that_is_not_much_larger(most: int) -> None:
    """Up to 512, beyond which a step is long enough without."""
    found = sizes(most)
    assert found == sorted(set(found))
    assert found[-1] == min(most, 512)
    for num in range(1, found[-1] + 1):
        size = next(size for size in found if size >= num)
        assert size - num < (8 if num <= 64 else 16 if num <= 256 else 32)


def test_padding_repeats_the_row_with_the_shortest_text() -> None:
    """All of it, so that what it writes twice is the same."""
    lengths, one = np.array([40, 3, 20], np.int32), np.ones(3, np.int32)
    tables = Tables(np.arange(9, dtype=np.int32), np.array([0, 3, 6], np.int32), 16)
    batch = make_batch(np.array([7, 8, 9], np.int32), one, lengths - 1, tables, np.arange(3, dtype=np.int32))
    rows, blocks = padded(batch, 5)
    assert rows.tolist() == [[7, 8, 9, 8, 8], [39, 2, 19, 2, 2], [39, 50, 115, 50, 50], [40, 3, 20, 3, 3]]
    assert blocks.tolist() == [[0, 1, 2], [3, 3, 3], [6, 7, 7], [3, 3, 3], [3, 3, 3]]


def test_a_model_comes_out_the_same_from_steps_that_are_recorded(
    torch_model, start_with, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of every size, padded or not, also of tokens that only the device knows; what records just keeps the step
    and runs it again."""
    model = torch_model("mistral", SMALL)
    replayed: list[int] = []

    def record(step: Callable[[], None]) -> Callable[[], None]:
        step()
        return lambda: (replayed.append(1), step())[0]

    monkeypatch.setattr(decode_graphs, "record_on", lambda _: record)
    monkeypatch.setattr(page_kernels, "attend", _decoding_only)
    monkeypatch.setattr(runner, "backend_for", lambda _: Backend(Kernel.TRITON, Kernel.GATHER, 16, ""))
    told: list[list[Any]] = []
    for refusal, overlaps in (("not now", False), (None, False), (None, True)):
        monkeypatch.setattr(runner, "graphs_refusal", lambda *_, refusal=refusal: refusal)
        session = start_with(model, blocks=64, sequences=6, step_tokens=24, overlaps=overlaps)
        ids = [session.submit(p, max_tokens=4 + n, logprobs=5, ignore_eos=True) for n, p in enumerate(PROMPTS)]
        session.finish()
        told.append([row.top for i in ids for row in session.answers[i].logprobs])
    assert told[1] == told[2] == [pytest.approx(row, abs=1e-4) for row in told[0]]
    assert len(replayed) >= 4


def test_a_device_that_records_nothing_is_served_without_graphs(
    torch_model, start_with, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are for speed alone: what they failed of is told, and steps go on."""
    model = torch_model("mistral", SMALL)

    def record(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(decode_graphs, "record_on", lambda _: record)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(runner, "graphs_refusal", lambda *_: None)
    session = start_with(model, blocks=64, sequences=6, step_tokens=24)
    assert "no graphs: recording failed: RuntimeError: operation not permitted" in session.engine.attends
    assert len(session.ask(PROMPTS[2], max_tokens=3, ignore_eos=True).tokens) == 3


def _decoding_only(q: Any, keys: Any, values: Any, pages: Any, scale: float, window: Any, softcap: Any) -> Any:
    """As Triton's kernel takes them: tables and lengths, nothing else."""
    return paged_reference.attend(
        q, keys, values, pages.tables, pages.lengths, pages.block_size, scale=scale, window=window, softcap=softcap
    )
