"""What becomes of the numbers of `make bench-engine`."""

from __future__ import annotations

import math

import pytest
from tests.bench.engine_speed.fidelity import divergence
from tests.bench.engine_speed.figures import Measured, figures, markdown, table


def _measured(title: str, **seen: list[float]) -> Measured:
    measured = Measured(title)
    measured.seen = seen
    return measured


@pytest.fixture
def known() -> dict[str, dict[str, object]]:
    ours = _measured("ours", decode_tok_s=[10.0, 40.0, 30.0], ttft_s=[0.5])
    theirs = _measured("theirs", decode_tok_s=[20.0], ttft_s=[0.25])
    return {"cortex": figures(ours, limit_tok_s=60.0), "peer": figures(theirs, limit_tok_s=80.0)}


def test_figures_are_medians_and_a_share_of_the_engines_own_limit(known: dict[str, dict[str, object]]) -> None:
    """A run that was disturbed does not move the figure, and engines are held to the format that they read."""
    assert known["cortex"]["decode_tok_s"] == 30.0
    assert known["cortex"]["of_limit"] == 0.5
    assert known["peer"]["of_limit"] == 0.25


def test_a_ratio_above_one_always_says_that_ours_is_better(known: dict[str, dict[str, object]]) -> None:
    """More tokens a second are better, more seconds are worse."""
    lines = {line.split()[0]: line for line in table(known).splitlines()}
    assert lines["decode_tok_s"].endswith("20.0 tok/s (1.50)")
    assert lines["ttft_s"].endswith("0.25 s (0.50)")


def test_the_rows_of_the_docs_tell_the_spread_where_there_were_several_runs(
    known: dict[str, dict[str, object]],
) -> None:
    """A reader sees how far runs lay apart."""
    rows = markdown(known).splitlines()
    assert rows[0] == "| figure | ours | theirs |"
    assert "| one stream, 128 tokens in, 128 out: decode | 30.0 tok/s (10.0 to 40.0) | 20.0 tok/s |" in rows


def test_the_divergence_of_a_distribution_from_itself_is_nothing() -> None:
    """Whatever was left out of the likeliest."""
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert divergence(shares, {"a": math.log(0.5), "b": math.log(0.3)}) == pytest.approx(0)


def test_the_divergence_counts_what_is_not_told_as_one_token() -> None:
    """By hand: 0.5 ln(0.5 / 0.8) + 0.5 ln(0.5 / 0.2), however the second half is spread."""
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    assert divergence(shares, {"a": math.log(0.8)}) == pytest.approx(0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(2.5))


def test_the_divergence_leaves_tokens_that_are_no_character_to_the_rest() -> None:
    """Several look the same, a server tells the share of one: that is no difference."""
    shares = {"a": 0.5, "\ufffd": 0.5}
    assert divergence(shares, {"a": math.log(0.5), "\ufffd": math.log(0.1)}) == pytest.approx(0)


def test_the_divergence_leaves_special_tokens_to_the_rest() -> None:
    """One server gives an end of turn its name, another no text."""
    shares = {"a": 0.5, "": 0.5}
    assert divergence(shares, {"a": math.log(0.5), "<|im_end|>": math.log(0.5)}) == pytest.approx(0)
    assert divergence(shares, {"a": math.log(0.5), "": math.log(0.5)}) == pytest.approx(0)
