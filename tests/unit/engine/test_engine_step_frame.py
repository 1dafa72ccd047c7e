"""A step's batch on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_neuron.engine.step_frame import pack, unpack
from cortex_neuron.layers.paged import Span
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Step, decode_to_worker, encode

numbers = st.integers(0, 2**31 - 1)
spans = st.builds(Span, st.lists(numbers, min_size=1, max_size=9), numbers, st.lists(numbers, max_size=5))


@given(st.lists(spans, max_size=6), st.lists(st.integers(0, 5), max_size=6))
def test_what_a_worker_computes_is_what_the_leader_scheduled(batch: list[Span], wanted: list[int]) -> None:
    """Through the bytes of the frame."""
    frame = decode_to_worker(encode(pack(batch, wanted)))
    assert isinstance(frame, Step)
    assert unpack(frame) == (batch, wanted)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    """A frame that was cut computes nothing."""
    frame = pack([Span([1, 2, 3], 0, [4])], [0])
    for cut in ({"tokens": frame.tokens[:-4]}, {"table_lengths": b""}, {"lengths": frame.lengths * 2}):
        with pytest.raises(BadRequest, match="step: "):
            unpack(msgspec.structs.replace(frame, **cut))
