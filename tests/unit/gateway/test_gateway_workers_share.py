"""What several workers share: the pause before the next start, and sums that keep histograms and exemplars."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from cortex_gateway.processes.supervisor import START_LIMIT, START_LIMIT_S, pause_s
from cortex_gateway.processes.workers import Worker, Workers
from cortex_gateway.records.metrics_sum import SummedMetrics


def test_the_next_start_is_at_once_and_later_ones_wait_ever_longer() -> None:
    """Twice as long each time, and not at all after START_LIMIT deaths within START_LIMIT_S."""
    deaths = [float(second) for second in range(START_LIMIT)]
    pauses = [pause_s(deaths[:number], now=START_LIMIT) for number in range(1, START_LIMIT + 1)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, None]
    assert pause_s(deaths, now=START_LIMIT_S + START_LIMIT) == 0.0


def test_a_seat_that_is_taken_anew_has_nothing_under_way() -> None:
    """Whoever sat there before is dead, and its requests with it; the others' are not."""
    workers = Workers(2)
    first, second = workers.seat(0), workers.seat(1)
    first.in_flight, second.in_flight = 3, 4
    assert workers.in_flight == 7
    workers.seat(0)
    assert workers.in_flight == 4


class _Counted:
    """One worker's metrics: a counter, a histogram, and a gauge as other processes have it."""

    def __init__(self, worker: Worker) -> None:
        registry = CollectorRegistry()
        self.requests = Counter("cortex_requests", "R", ["model"], registry=registry)
        self.ttft = Histogram("cortex_ttft_seconds", "T", buckets=(1, 2), registry=registry)
        self.metrics = SummedMetrics(registry, worker)

    def shown(self) -> dict[str, float]:
        """Every series, as `name le model` and value."""
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in self.metrics.collect()
            for sample in family.samples
        }


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(2, tmp_path)


def test_counters_and_histograms_of_all_workers_add_up_bucket_by_bucket(workers: Workers) -> None:
    """Series that only one of them has are there as well."""
    one, two = _Counted(workers.seat(0)), _Counted(workers.seat(1))
    one.requests.labels("m").inc(2)
    two.requests.labels("m").inc(3)
    two.requests.labels("only there").inc()
    one.ttft.observe(0.5)
    two.ttft.observe(1.5)
    two.ttft.observe(5)
    two.metrics.lay_out()
    shown = one.shown()
    assert (shown["cortex_requests_total m"], shown["cortex_requests_total only there"]) == (5, 1)
    assert [shown[f"cortex_ttft_seconds_bucket {le}"] for le in ("1.0", "2.0", "+Inf")] == [1, 2, 3]
    assert (shown["cortex_ttft_seconds_count"], shown["cortex_ttft_seconds_sum"]) == (3, 7)
    assert two.shown() == shown


def test_a_worker_shows_what_it_has_counted_before_another_can_show_less(workers: Workers) -> None:
    """A counter that falls reads as a restart: whatever one worker has shown of itself, its siblings know."""
    one, two = _Counted(workers.seat(0)), _Counted(workers.seat(1))
    one.requests.labels("m").inc()
    assert one.shown()["cortex_requests_total m"] == 1
    assert two.shown()["cortex_requests_total m"] == 1


def test_the_counts_of_a_dead_worker_stay_with_its_seat(workers: Workers) -> None:
    """Also over two deaths, and the next one's are added."""
    for expected in (1, 2, 3):
        born = _Counted(workers.seat(0))
        born.requests.labels("m").inc()
        assert born.shown()["cortex_requests_total m"] == expected
    assert _Counted(workers.seat(1)).shown()["cortex_requests_total m"] == 3


def test_the_newest_exemplar_of_a_series_is_kept(workers: Workers) -> None:
    """It leads to one request, whichever worker had that."""
    one, two = _Counted(workers.seat(0)), _Counted(workers.seat(1))
    one.requests.labels("m").inc(1, {"request_id": "old"})
    two.requests.labels("m").inc(1, {"request_id": "new"})
    two.metrics.lay_out()
    assert [_exemplars(each.metrics.collect()) for each in (one, two)] == [["new"], ["new"]]


def _exemplars(families: object) -> list[str]:
    found: list[str] = []
    for family in families:  # type: ignore[attr-defined]
        assert isinstance(family, Metric)
        found += [sample.exemplar.labels["request_id"] for sample in family.samples if sample.exemplar]
    return found
