"""Schedules of what may happen to an engine, as hypothesis makes them, and what plays one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from stand_in import prompt_of

TREE = [prompt_of(np.random.default_rng(seed), 60) for seed in range(3)]
_PROMPTS = st.builds(
    lambda tree, shared, own, seed: TREE[tree][:shared] + prompt_of(np.random.default_rng(seed), own),
    st.integers(0, 2),
    st.integers(0, 50),
    st.integers(1, 12),
    st.integers(0, 3),
)
EVENTS = st.one_of(
    st.tuples(st.just("submit"), _PROMPTS, st.integers(1, 30)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("steps"), st.integers(1, 6)),
    st.tuples(st.just("fail")),
)


def play(
    session: Any, runs: Any, schedule: list[Any], stepped: Callable[[], None] = lambda: None, **more: Any
) -> dict[int, tuple[list[int], int]]:
    """Each id's prompt and limit. `stepped` is called after each step that goes well; `more` is of every submit."""
    asked: dict[int, tuple[list[int], int]] = {}
    for event in schedule:
        match event:
            case ("submit", prompt, max_tokens):
                asked[session.submit(prompt, max_tokens=max_tokens, **more)] = prompt, max_tokens
            case ("cancel", number) if asked:
                session.engine.cancel([list(asked)[number % len(asked)]])
            case ("steps", number):
                for _ in range(number):
                    session.step()
                    stepped()
            case ("fail",) if session.engine.has_work:
                runs.fails = True
                session.step()
    runs.fails = False
    return asked
