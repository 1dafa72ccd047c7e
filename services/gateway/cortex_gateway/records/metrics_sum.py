"""The metrics of several workers as one page: what is counted adds up, what is believed is that of whoever is asked.

Owns: the sum, exemplars included, and that a dead worker's counts stay. Does not own: which metrics there are
(metrics.py). prometheus_client's own way for several processes keeps no exemplars. Called by: metrics.py, gateway.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cortex_gateway.processes.workers import Worker

_PAGE = "metrics"
_COUNTED = frozenset({"counter", "histogram"})
UNDER_WAY = "cortex_requests_in_flight"  # the one gauge of each worker's own

Labels = tuple[tuple[str, str], ...]


class SummedMetrics(Collector):
    """One worker's registry, the last pages of its siblings, and what its dead predecessor had counted."""

    def __init__(self, registry: CollectorRegistry, worker: Worker) -> None:
        self._registry, self._worker = registry, worker
        self._before = [family for family in _families(worker.own(_PAGE)) if family.type in _COUNTED]

    def collect(self) -> Iterator[Metric]:
        """The sum. What it shows of this worker is laid out first, so that no worker ever shows less."""
        self.lay_out()
        siblings = [_families(page) for page in self._worker.others(_PAGE)]
        yield from summed([self._registry.collect(), self._before, *siblings])

    def lay_out(self) -> None:
        """Show the siblings what has been counted here so far."""
        if self._worker.all.count > 1:
            families = [each for each in self._registry.collect() if each.type in _COUNTED or each.name == UNDER_WAY]
            page: bytes = generate_latest(_Families(summed([families, self._before])))  # type: ignore[no-untyped-call]
            self._worker.lay_out(_PAGE, page)


def summed(pages: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The first page's families with the counts of the others added, and what only others have. Pure."""
    families: dict[str, Metric] = {}
    samples: dict[str, dict[tuple[str, Labels], Sample]] = {}
    for page in pages:
        for family in page:
            families.setdefault(family.name, family)
            kept = samples.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                kept[key] = _added(kept[key], sample) if key in kept else sample
    return [_with(family, samples[name].values()) for name, family in families.items()]


def _added(one: Sample, other: Sample) -> Sample:
    newest = max(filter(None, (one.exemplar, other.exemplar)), key=_said_at, default=None)
    return one._replace(value=one.value + other.value, exemplar=newest)


def _said_at(exemplar: Exemplar) -> float:
    return float(exemplar.timestamp or 0)


def _with(family: Metric, samples: Iterable[Sample]) -> Metric:
    copy = Metric(family.name, family.documentation, family.type, family.unit)
    copy.samples = list(samples)
    return copy


def _families(page: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(page.decode())) if page else []  # type: ignore[no-untyped-call]


class _Families(Collector):
    """Families as something to generate a page from."""

    def __init__(self, families: list[Metric]) -> None:
        self._all = families

    def collect(self) -> Iterable[Metric]:
        return self._all
