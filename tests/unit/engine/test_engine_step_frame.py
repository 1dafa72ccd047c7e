"""A step's batch on the wire."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_neuron.engine.step_frame import pack, unpack
from cortex_neuron.layers.batch import Batch, Tables, make_batch
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Step, decode_to_worker, encode

BLOCK = 4
numbers = st.integers(0, 2**20)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Sequences anywhere in a table that has more than they need."""
    spans = draw(st.lists(st.tuples(st.lists(numbers, min_size=1, max_size=9), st.integers(0, 30)), max_size=6))
    tables = np.array(draw(st.lists(numbers, min_size=60, max_size=60)), np.int32)
    starts = np.array([draw(st.integers(0, 50)) for _ in spans], np.int32)
    tokens = np.array([token for part, _ in spans for token in part], np.int32)
    counts, pasts = (np.array(each, np.int32) for each in ([len(t) for t, _ in spans], [past for _, past in spans]))
    wanted = np.array(draw(st.lists(st.integers(0, 5), max_size=6)), np.int32)
    return make_batch(tokens, counts, pasts, Tables(tables, starts, BLOCK), wanted)


@given(batches())
def test_what_a_worker_computes_is_what_the_leader_scheduled(batch: Batch) -> None:
    """Through the bytes of the frame; of the tables only what the sequences use."""
    frame = decode_to_worker(encode(pack(batch)))
    assert isinstance(frame, Step)
    got = unpack(frame, BLOCK)
    for name in {field.name for field in fields(Batch)} - {"tables", "table_starts"}:
        assert np.array_equal(getattr(got, name), getattr(batch, name)), name
    for i in range(len(batch.pasts)):
        assert got.table(i).tolist() == batch.table(i).tolist()


@given(batches())
def test_a_row_lies_where_its_table_says(batch: Batch) -> None:
    """Token by token, the slow way."""
    rows = [(i, past + n) for i, past in enumerate(batch.pasts.tolist()) for n in range(batch.counts[i])]
    assert batch.positions.tolist() == [position for _, position in rows]
    assert batch.slots.tolist() == [batch.table(i)[p // BLOCK] * BLOCK + p % BLOCK for i, p in rows]


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    """A frame that was cut computes nothing."""
    one = np.ones(1, np.int32)
    frame = pack(make_batch(one * [1, 2, 3], one * 3, one * 0, Tables(one * 4, one * 0, BLOCK), one * 0))
    assert unpack(frame, BLOCK).slots.tolist() == [16, 17, 18]
    for cut in (
        {"tokens": frame.tokens[:-4]},
        {"table_lengths": b""},
        {"lengths": frame.lengths * 2},
        {"pasts": (one * 2).tobytes()},
    ):
        with pytest.raises(BadRequest, match="step: "):
            unpack(msgspec.structs.replace(frame, **cut), BLOCK)
