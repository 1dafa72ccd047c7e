"""The ledger: what is counted within a minute, over all workers, and that nothing stays counted that is over."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_contracts.inventory.clients import MOST_KEYS, Allowance
from cortex_gateway.admission.ledger import ROWS, SECONDS, WINDOW_S, Ledger, Used
from cortex_gateway.admission.limits import Limit, exceeded

ALICE, BOB = 11, -22
NOTHING = Used(0, 0, 0, 0)


def workers(count: int) -> list[Ledger]:
    """All workers of one gateway, with the same keys."""
    buffer = mmap.mmap(-1, Ledger.size(count))
    ledgers = [Ledger(buffer, count, number) for number in range(count)]
    for ledger in ledgers:
        ledger.declare({ALICE, BOB})
    return ledgers


@pytest.fixture
def ledger() -> Ledger:
    """Of a gateway with one worker."""
    return workers(1)[0]


steps = st.lists(
    st.tuples(
        st.floats(0, 130).map(lambda wait_s: round(wait_s, 3)),
        st.integers(0, 2),
        st.booleans(),
        st.integers(0, 50),
    ),
    max_size=120,
)


def admitted(limits: Allowance, asked: list[tuple[float, int, bool, int]]) -> Iterator[tuple[float, int, int]]:
    """Time, tokens and what is under way of each request that three workers let in; some end at once, some last."""
    ledgers, now, running = workers(3), 1000.0, list[tuple[Ledger, int]]()
    for wait_s, worker, ends, tokens in asked:
        now += wait_s / 10
        second, ledger = int(now), ledgers[worker]
        if ends and running:
            its_ledger, cost = running.pop(0)
            its_ledger.end(ALICE, cost, second)
        if exceeded(limits, ledger.used(ALICE, second)) is None:
            ledger.begin(ALICE, second)
            running.append((ledger, tokens))
            yield now, tokens, len(running)
    for its_ledger, cost in running:
        its_ledger.end(ALICE, cost, int(now))
    assert ledgers[0].used(ALICE, int(now)).running == 0


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 6))
def test_no_more_requests_than_the_limit_begin_in_any_minute(
    asked: list[tuple[float, int, bool, int]], limit: int
) -> None:
    """Wherever a window of 60 s is laid, whichever worker was asked."""
    begun = [now for now, _, _ in admitted(Allowance(requests_per_minute=limit), asked)]
    for first in begun:
        assert sum(1 for each in begun if first <= each <= first + WINDOW_S) <= limit


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 4))
def test_no_more_requests_than_the_limit_are_under_way(asked: list[tuple[float, int, bool, int]], limit: int) -> None:
    """And all seats are free when all have ended (case L9)."""
    assert all(running <= limit for _, _, running in admitted(Allowance(concurrent_requests=limit), asked))


@settings(max_examples=150, deadline=None)
@given(steps)
def test_the_counts_are_those_of_a_plain_list(asked: list[tuple[float, int, bool, int]]) -> None:
    """Against a model that keeps every request and every charge."""
    ledgers, now = workers(3), 1000.0
    begun, charged = Counter[int](), Counter[int]()
    for wait_s, worker, ends, tokens in asked:
        now += wait_s
        second = int(now)
        ledgers[worker].begin(ALICE, second)
        begun[second] += 1
        if ends:
            ledgers[worker].end(ALICE, tokens, second)
            charged[second] += tokens
        used = ledgers[0].used(ALICE, second)
        oldest = second - SECONDS
        assert used.requests == sum(count for at, count in begun.items() if at > oldest)
        assert used.tokens == sum(count for at, count in charged.items() if at > oldest)
        assert ledgers[1].used(BOB, second) == NOTHING
        free = ledgers[2].requests_fall_to(0, ALICE, second)
        assert ledgers[0].used(ALICE, free).requests == 0 < ledgers[0].used(ALICE, free - 1).requests


def test_the_second_is_told_from_which_there_is_room(ledger: Ledger) -> None:
    """The oldest leaves first; not before."""
    for second in (100, 110, 110, 130):
        ledger.begin(ALICE, second)
        ledger.end(ALICE, 10, second)
    assert ledger.requests_fall_to(3, ALICE, 140) == 100 + SECONDS
    assert ledger.requests_fall_to(2, ALICE, 140) == 110 + SECONDS
    assert ledger.tokens_fall_to(9, ALICE, 140) == 130 + SECONDS
    assert ledger.requests_fall_to(4, ALICE, 140) == 140
    assert ledger.used(ALICE, 100 + SECONDS - 1).requests == 4
    assert ledger.used(ALICE, 100 + SECONDS).requests == 3


def test_what_another_worker_counts_is_seen_at_once_whatever_its_keys() -> None:
    """Workers take up a reload one after the other: for a while each has keys of its own, in an order of its own."""
    one, two = workers(2)
    two.declare({33, ALICE})
    two.begin(ALICE, 100)
    one.begin(ALICE, 100)
    assert one.used(ALICE, 100).running == two.used(ALICE, 100).running == 2
    two.end(ALICE, 5, 100)
    two.declare({BOB})
    two.begin(BOB, 100)
    assert (one.used(ALICE, 100).running, one.used(BOB, 100).running) == (1, 1)


def test_a_key_that_is_gone_keeps_its_count_until_its_requests_have_ended(ledger: Ledger) -> None:
    """A reload does not drop what is under way, nor lets it leave a wrong count behind."""
    ledger.begin(ALICE, 100)
    ledger.declare({BOB})
    assert ledger.used(ALICE, 100).running == 1
    ledger.end(ALICE, 7, 100)
    ledger.declare({BOB})
    ledger.declare({ALICE, BOB})
    assert ledger.used(ALICE, 100) == NOTHING


def test_a_dead_worker_has_nothing_under_way_and_what_it_used_still_counts() -> None:
    """Its column goes to the next one (case L9)."""
    buffer = mmap.mmap(-1, Ledger.size(2))
    one, dead = Ledger(buffer, 2, 0), Ledger(buffer, 2, 1)
    for ledger in (one, dead):
        ledger.declare({ALICE})
    dead.begin(ALICE, 100)
    dead.begin(ALICE, 100)
    dead.end(ALICE, 9, 100)
    successor = Ledger(buffer, 2, 1)
    successor.clear()
    assert one.used(ALICE, 100)[:3] == (2, 9, 0)
    successor.declare({ALICE})
    successor.begin(ALICE, 101)
    assert one.used(ALICE, 101)[:3] == (3, 9, 1)


def test_there_is_room_for_all_keys_and_for_as_many_that_are_gone(ledger: Ledger) -> None:
    """A whole set of keys is replaced while each has a request under way."""
    old, new = set(range(1, MOST_KEYS + 2)), set(range(10_001, 10_002 + MOST_KEYS))
    ledger.declare(old)
    for account in old:
        ledger.begin(account, 100)
    ledger.declare(new)
    assert len(old | new) == ROWS
    assert all(ledger.used(account, 100).running == 1 for account in old)


@pytest.mark.parametrize(
    ("allowance", "used", "limit"),
    [
        (Allowance(), Used(9, 9, 9, 9), None),
        (Allowance(requests_per_minute=2), Used(1, 0, 0, 0), None),
        (Allowance(requests_per_minute=2), Used(2, 0, 0, 0), Limit.REQUESTS),
        (Allowance(tokens_per_minute=100), Used(0, 99, 5, 0), None),
        (Allowance(tokens_per_minute=100), Used(0, 250, 0, 0), Limit.TOKENS),
        (Allowance(concurrent_requests=1), Used(0, 0, 1, 0), Limit.CONCURRENT),
        (Allowance(requests_per_minute=2, concurrent_requests=1), Used(2, 0, 1, 0), Limit.REQUESTS),
    ],
)
def test_a_request_is_kept_out_by_the_limit_that_is_reached(
    allowance: Allowance, used: Used, limit: Limit | None
) -> None:
    """Of tokens one must be left; what a request will use is known at its end."""
    assert exceeded(allowance, used) is limit
