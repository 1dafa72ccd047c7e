"""A step gets as many threads as were measured to be worth it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cortex_neuron.engine import threads
from cortex_neuron.engine.threads import ThreadPlan, measure_threads


def test_a_step_gets_the_threads_of_the_next_larger_measured_one() -> None:
    """Beyond what was measured, a prompt gets them all."""
    plan = ThreadPlan(4, ((1, 1), (8, 2)))
    assert [plan.threads(rows) for rows in (1, 2, 8, 9, 500)] == [1, 2, 2, 4, 4]
    assert ThreadPlan(3).threads(1) == 3


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({1: 1.0, 2: 0.95, 4: 0.91}, 1),  # not worth the cores
        ({1: 1.0, 2: 0.6, 4: 0.58}, 2),
        ({1: 1.0, 2: 1.4, 4: 0.5}, 4),
    ],
)
def test_more_threads_must_be_worth_it(times, best, monkeypatch) -> None:
    """A tenth faster, at least: the daemon lives on the same cores."""
    monkeypatch.setattr(threads, "_seconds", lambda layers, rows, count: times[count])
    assert threads._best([], 1, [1, 2, 4]) == best


def test_a_small_model_is_measured_and_a_large_one_gets_all_threads() -> None:
    """Products of many weights outlast any waking."""
    before = torch.get_num_threads()
    try:
        small = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        plan = measure_threads(small, 2)
        assert [rows for rows, _ in plan.best] == list(threads.MEASURED_ROWS)
        assert {count for _, count in plan.best} <= {1, 2}
        with torch.device("meta"):
            large = nn.Sequential(nn.Linear(4096, 4097), nn.Linear(64, 64))
        assert measure_threads(large, 8) == ThreadPlan(8)
        assert measure_threads(small, 1) == ThreadPlan(1)
    finally:
        torch.set_num_threads(before)


def test_each_step_runs_on_the_threads_of_its_rows(torch_demo_model, start_with, monkeypatch) -> None:
    """A prompt of 20 tokens takes two, the decoding after it one."""
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    start_with(torch_demo_model, plan=ThreadPlan(2, ((8, 1),))).ask([504] * 20, max_tokens=3, ignore_eos=True)
    assert counts == [2, 1, 1]
