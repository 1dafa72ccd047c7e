"""The gateway's metrics, `cortex_*`.

Owns: names, labels, buckets, exemplars, and that series of models and neurons that are gone are not shown (case M2).
Label values are bounded: a model that nobody declares is "unknown". Called by: api (requests), forwarding, loading,
gateway.py.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cortex_contracts.wire.errors import ShuttingDown, UpstreamBroken, by_code
from cortex_gateway.exchange import UNKNOWN_MODEL, Exchange, Outcome, Stage
from cortex_gateway.fleet.snapshot import Snapshot
from cortex_gateway.processes.workers import Worker
from cortex_gateway.records.metrics_sum import UNDER_WAY, SummedMetrics
from cortex_gateway.routing.circuit import Circuits

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DURATION_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SPEED_BUCKETS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
LOAD_WAIT_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

_LONGEST_EXEMPLAR = 128  # characters of names and values together, by OpenMetrics
_OTHER = "other"


class Metrics:
    """One registry and everything in it."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        inside: Callable[[], Iterable[Exchange]],
        worker: Worker,
        circuits: Circuits,
    ) -> None:
        self.registry = CollectorRegistry()
        by_model = ("model", "dialect")
        self.requests = self._counter("requests", "Requests that have ended", (*by_model, "outcome"))
        self.upstream_errors = self._counter(
            "upstream_errors", "Answers of neurons that were none", ("neuron", "reason")
        )
        self.broken_streams = self._counter(
            "broken_streams", "Streams that broke after they had begun", ("model", "reason")
        )
        self.disconnects = self._counter("client_disconnects", "Clients that left before the end", ("model", "stage"))
        self.tokens = self._counter("tokens", "Tokens, as neurons count them", ("model", "kind"))
        self.key_requests = self._counter(
            "key_requests", "Requests that have ended, by whose they were", ("key", "model", "outcome")
        )
        self.key_tokens = self._counter(
            "key_tokens", "Tokens, as neurons count them, by who used them", ("key", "model", "kind")
        )
        self.limited = self._counter("limited", "Requests that a limit of their key kept out", ("key", "limit"))
        self.evictions = self._counter("evictions", "Models unloaded to make room", ("neuron",))
        self.recycles = self._counter(
            "recycles", "Models loaded anew after many evictions on their neuron", ("neuron", "result")
        )
        self.loads = self._counter("loads", "Loads that this gateway waited for", ("model", "result"))
        self.load_wait = self._histogram(
            "load_wait_seconds", "What requests waited for their model to be loaded", ("model",), LOAD_WAIT_BUCKETS_S
        )
        self.ttft = self._histogram("ttft_seconds", "To the first content of a stream", by_model, TTFT_BUCKETS_S)
        self.duration = self._histogram(
            "request_duration_seconds", "To the end of the answer", by_model, DURATION_BUCKETS_S
        )
        self.speed = self._histogram(
            "tokens_per_second", "Generated tokens by decode time, prefill excluded", ("model",), SPEED_BUCKETS
        )
        self.registry.register(_FleetCollector(snapshot, inside, circuits))
        self._all_workers = SummedMetrics(self.registry, worker)
        self._present = _Present(self._all_workers, snapshot)
        self._series: dict[tuple[str, str], _Series] = {}
        self._key_series: dict[tuple[str, str], _KeySeries] = {}

    def declare(self, models: Collection[str], keys: Collection[str]) -> None:
        """These models and names of keys there are from now on; series of others are shown no more."""
        self._present.models = frozenset((*models, UNKNOWN_MODEL))
        self._present.keys = frozenset(keys)

    def refused(self, key: str, limit: str) -> None:
        """Count a request that a limit of its key has kept out."""
        self.limited.labels(key, limit).inc()

    def lay_out(self) -> None:
        """Let the other workers know what has been counted in this one."""
        self._all_workers.lay_out()

    def page(self, accept: str) -> tuple[bytes, str]:
        """What /metrics answers to this Accept, and its media type: exemplars are in OpenMetrics alone."""
        encode, media_type = choose_encoder(accept)
        return encode(self._present), media_type

    def ended(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        model, outcome, key = exchange.model, exchange.outcome, (exchange.model, exchange.dialect.value)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self, *key)
        exemplar = _exemplar(exchange)
        series.requests[outcome].inc(1, exemplar)
        if exchange.key:
            self._used(exchange)
        if outcome is Outcome.OK:
            series.duration.observe(exchange.duration_s, exemplar)
        elif outcome is Outcome.CLIENT_GONE:
            self.disconnects.labels(model, exchange.ended_in.value).inc()
        else:
            self._broke(exchange)
        if exchange.first_content_s is not None:
            series.ttft.observe(exchange.first_content_s, exemplar)
        if exchange.load_wait_s is not None:
            self.load_wait.labels(model).observe(exchange.load_wait_s)
        if (usage := exchange.usage) is not None:
            series.prompt.inc(usage.prompt_tokens)
            series.completion.inc(usage.completion_tokens)
            series.cached.inc(usage.cached_tokens)
            if usage.decode_ms > 0 and usage.completion_tokens > 1:
                # The first token is prefill's.
                series.speed.observe((usage.completion_tokens - 1) * 1000 / usage.decode_ms)

    def _used(self, exchange: Exchange) -> None:
        key = (exchange.key, exchange.model)
        series = self._key_series.get(key)
        if series is None:
            series = self._key_series[key] = _KeySeries(self, *key)
        series.requests[exchange.outcome].inc()
        if (usage := exchange.usage) is not None:
            series.prompt.inc(usage.prompt_tokens)
            series.completion.inc(usage.completion_tokens)

    def _broke(self, exchange: Exchange) -> None:
        """A neuron's answer that has ended in its middle; what ends before that is counted where it is met."""
        code = exchange.code
        if exchange.outcome is Outcome.BROKEN:
            reason = code if by_code(code) is not None else _OTHER  # the code is the neuron's: any word
            self.broken_streams.labels(exchange.model, reason).inc()
            if code != ShuttingDown.code:
                self.upstream_errors.labels(exchange.neuron, "broken").inc()
        elif code == UpstreamBroken.code:
            self.upstream_errors.labels(exchange.neuron, "broken").inc()

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"cortex_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"cortex_{name}", text, labels, buckets=buckets, registry=self.registry)


class _Series:
    """What each request of one model and dialect counts: looked up once, for that is dearer than to count."""

    __slots__ = ("cached", "completion", "duration", "prompt", "requests", "speed", "ttft")

    def __init__(self, metrics: Metrics, model: str, dialect: str) -> None:
        self.requests = {outcome: metrics.requests.labels(model, dialect, outcome.value) for outcome in Outcome}
        self.ttft, self.duration = metrics.ttft.labels(model, dialect), metrics.duration.labels(model, dialect)
        self.prompt, self.completion, self.cached = (
            metrics.tokens.labels(model, kind) for kind in ("prompt", "completion", "cached")
        )
        self.speed = metrics.speed.labels(model)


class _KeySeries:
    """The same of one key and model."""

    __slots__ = ("completion", "prompt", "requests")

    def __init__(self, metrics: Metrics, key: str, model: str) -> None:
        self.requests = {outcome: metrics.key_requests.labels(key, model, outcome.value) for outcome in Outcome}
        self.prompt, self.completion = (
            metrics.key_tokens.labels(key, model, kind) for kind in ("prompt", "completion")
        )


def _exemplar(exchange: Exchange) -> dict[str, str] | None:
    """What leads from a series to one request; None where its id is longer than may be."""
    found = {"request_id": exchange.request_id}
    if exchange.trace is not None:
        found["trace_id"] = exchange.trace.trace_id
    return found if sum(map(len, (*found, *found.values()))) <= _LONGEST_EXEMPLAR else None


class _Present(Collector):
    """The registry without series of models, neurons and keys that are gone. They are left out when read, not deleted
    when they go: a request that outlives its model is counted after that."""

    def __init__(self, registry: Collector, snapshot: Callable[[], Snapshot]) -> None:
        self._registry, self._snapshot = registry, snapshot
        self.models: Collection[str] = frozenset({UNKNOWN_MODEL})
        self.keys: Collection[str] = frozenset()

    def collect(self) -> Iterator[Metric]:
        models, keys, neurons = self.models, self.keys, self._snapshot().neurons
        for metric in self._registry.collect():
            metric.samples = [
                sample
                for sample in metric.samples
                if sample.labels.get("model", UNKNOWN_MODEL) in models
                and ("neuron" not in sample.labels or sample.labels["neuron"] in neurons)
                and ("key" not in sample.labels or sample.labels["key"] in keys)
            ]
            yield metric


class _FleetCollector(Collector):
    """Gauges read from the snapshot when they are asked for, so that none outlives its model or neuron."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], inside: Callable[[], Iterable[Exchange]], circuits: Circuits
    ) -> None:
        self._snapshot, self._inside, self._circuits = snapshot, inside, circuits

    def collect(self) -> Iterator[Metric]:
        yield self._under_way()
        yield self._tripped()
        snapshot = self._snapshot()
        up = GaugeMetricFamily("cortex_neuron_up", "1 where the neuron answers", labels=["neuron"])
        strikes = GaugeMetricFamily("cortex_neuron_strikes", "Polls missed in a row", labels=["neuron"])
        free = GaugeMetricFamily("cortex_device_vram_free_mb", "Free memory", labels=["neuron", "device"])
        total = GaugeMetricFamily("cortex_device_vram_total_mb", "All memory", labels=["neuron", "device"])
        for neuron in snapshot.neurons.values():
            up.add_metric([neuron.name], neuron.healthy)
            strikes.add_metric([neuron.name], neuron.strikes)
            for device in neuron.devices if neuron.healthy else ():
                free.add_metric([neuron.name, str(device.index)], device.vram_free_mb)
                total.add_metric([neuron.name, str(device.index)], device.vram_total_mb)
        models = GaugeMetricFamily(
            "cortex_model_status", "1 for the state a model is in", labels=["model", "neuron", "status"]
        )
        for replicas in snapshot.replicas.values():
            for replica in replicas:
                models.add_metric([replica.model.id, replica.neuron.name, replica.model.status.value], 1)
        yield from (up, strikes, free, total, models)

    def _tripped(self) -> Metric:
        text = "1 where a model's circuit is open or half open"
        family = GaugeMetricFamily("cortex_circuit_open", text, labels=["model", "neuron"])
        for (neuron, model), _ in self._circuits.not_closed():
            family.add_metric([model, neuron], 1)
        return family

    def _under_way(self) -> Metric:
        family = GaugeMetricFamily(UNDER_WAY, "Requests under way in this gateway", labels=["stage"])
        stages = Tally(exchange.stage for exchange in self._inside())
        for stage in Stage:
            if stage is not Stage.DONE:
                family.add_metric([stage.value], stages[stage])
        return family
