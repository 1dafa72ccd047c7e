"""A short look for what `make fuzz` looks for at length: any bytes, and seeds with some of their bytes changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_contracts.wire.errors import UpstreamBroken
from cortex_dialects.sse import LONGEST_EVENT_BYTES, EventSplitter

CORPUS = Path(__file__).parent / "corpus"
SEEDS = {name: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] for name in TARGETS}
EXAMPLES = 150


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_keeps_its_promises(name: str) -> None:
    """Among them what fuzzing once found."""
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES)
@given(data=st.binary(max_size=200))
def test_any_bytes_keep_every_promise(name: str, data: bytes) -> None:
    """Not UTF-8, not HTTP, not JSON."""
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_changed_seeds_keep_every_promise(name: str, data: st.DataObject) -> None:
    """What is almost right: a piece of a seed replaced by other bytes, or by a piece of another."""
    seed = data.draw(st.sampled_from(SEEDS[name]))
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, min(len(seed), start + 20)))
    other = data.draw(st.sampled_from(SEEDS[name]))
    patch = data.draw(st.binary(max_size=12) | st.integers(0, len(other)).map(lambda at: other[at : at + 40]))
    TARGETS[name](seed[:start] + patch + seed[end:])


@pytest.mark.parametrize("piece", [b"data: x", b"data: x\n", b"\x00" * 65536])
def test_an_event_without_an_end_takes_no_more_memory_than_the_longest_one(piece: bytes) -> None:
    """An engine that never ends a line would fill the gateway's memory: it is given up."""
    splitter, piece = EventSplitter(), piece * (65536 // len(piece))
    for _ in range(LONGEST_EVENT_BYTES // len(piece)):
        splitter.feed(piece)
    with pytest.raises(UpstreamBroken):
        splitter.feed(piece)
    assert splitter.rest() == b""
