"""Where a text has been before, and how far it is followed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_neuron.engine.ngram_index import MOST_AT_ONCE, NOWHERE, NgramIndex
from cortex_neuron.engine.prompt_lookup import LONGEST_PAUSE, Pace, PromptLookup
from cortex_neuron.layers.batch import Ints
from cortex_neuron.protocol.frames import Speculation

SETTINGS = Speculation(num_speculative_tokens=8, prompt_lookup_min=2, prompt_lookup_max=3)


def _ints(tokens: list[int]) -> Ints:
    return np.array(tokens, np.int32)


def _slowly(text: list[int], least: int, most: int) -> int:
    """The end of the latest earlier run that the text ends with, of the longest."""
    for size in range(min(most, len(text) - 1), least - 1, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                return end
    return NOWHERE


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    cuts=st.lists(st.integers(1, 40), max_size=8),
    sizes=st.tuples(st.integers(1, 4), st.integers(0, 3)),
)
def test_the_latest_of_the_longest_runs_is_found(text: list[int], cuts: list[int], sizes: tuple[int, int]) -> None:
    """In a text that grows by one token or by many: side by side they are taken in as they are one by one."""
    least, most = sizes[0], sizes[0] + sizes[1]
    index, length = NgramIndex(least, most, 1000), 0
    for grown in [*cuts, len(text)]:
        length = min(len(text), length + grown)
        assert index.find(_ints(text[:length])) == _slowly(text[:length], least, most)


def test_what_is_found_is_there_however_full_the_table_is() -> None:
    """A table that is too small for its text forgets; it never says what is not so."""
    text = _ints(np.random.default_rng(1).integers(0, 60, 9000).tolist())
    index = NgramIndex(2, 4, capacity=1)
    found = 0
    for length in range(4000, 9000, 7):
        end = index.find(text[:length])
        if end != NOWHERE:
            assert text[end - 2 : end].tolist() == text[length - 2 : length].tolist()
            assert end < length
            found += 1
    assert found > 20


def test_a_long_text_is_taken_in_over_several_calls() -> None:
    """One call costs the same however long the text is; until it has been read, nothing is found."""
    size = 3 * MOST_AT_ONCE
    text = _ints([*range(size), 5, 6, 7])
    index, seen = NgramIndex(2, 3, size + 10), []
    while (found := index.find(text)) == NOWHERE:
        seen.append(index.num_indexed)
    assert np.diff([0, *seen]).max() <= MOST_AT_ONCE
    assert (len(seen), found) == (3, 8)


def test_the_table_of_the_longest_text_is_bounded() -> None:
    """A mebibyte at most, and little for a short one."""
    assert NgramIndex(2, 4, 1 << 20)._ends.nbytes == 1 << 20
    assert NgramIndex(2, 4, 100)._ends.nbytes <= 1 << 12


# ---- drafts


def test_a_draft_is_what_came_after_the_last_time() -> None:
    """As much of it as there is room for."""
    drafts = PromptLookup(SETTINGS, 100)
    text = _ints([1, 2, 3, 4, 9, 9, 1, 2, 7, 8, 5, 1, 2])
    assert drafts.propose(text, 10).tolist() == [7, 8]
    assert drafts.propose(text, 1).tolist() == [7]
    assert drafts.propose(text, 0).tolist() == []


def test_a_text_that_repeats_itself_is_read_on_into_its_own_draft() -> None:
    """Two tokens, over and over: eight of them are drafted from the last two."""
    drafts = PromptLookup(SETTINGS, 100)
    for _ in range(3):
        drafts.learn(1, 1)
    assert drafts.propose(_ints([5, 6, 5, 6, 5, 6]), 10).tolist() == [5, 6] * 4


def test_nothing_is_drafted_where_the_text_has_not_been() -> None:
    """One token alone is not enough of a match."""
    assert len(PromptLookup(SETTINGS, 100).propose(_ints([1, 2, 3, 4, 1]), 8)) == 0


def test_drafts_that_are_right_grow_and_those_that_are_not_shrink_to_what_was() -> None:
    """Twice as long, up to what is asked for; then as long as the right part."""
    pace = Pace(8)
    lengths = []
    for right in (2, 4, 8, 8, 3, 3, 0):
        lengths.append(pace.length())
        pace.learn(lengths[-1], min(right, lengths[-1]))
    assert lengths == [2, 4, 8, 8, 8, 3, 6]


def test_drafts_that_fail_are_tried_ever_less() -> None:
    """Of a thousand steps of a text that goes on otherwise each time, few have a draft, and that of one token."""
    pace, tried = Pace(8), []
    for step in range(1000):
        if length := pace.length():
            tried.append((step, length))
            pace.learn(length, 0)
    assert len(tried) <= 6 + 1000 // LONGEST_PAUSE
    assert {length for _, length in tried[1:]} == {1}


@pytest.mark.parametrize("most", [1, 2, 8])
def test_no_draft_is_longer_than_was_asked_for(most: int) -> None:
    """num_speculative_tokens."""
    pace = Pace(most)
    for _ in range(5):
        assert 1 <= pace.length() <= most
        pace.learn(most, most)
