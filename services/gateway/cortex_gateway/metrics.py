"""The gateway's metrics, `cortex_*`.

Owns: names, labels, buckets, and that series of models and neurons that are gone vanish (case M2). Label values are
bounded: a model that nobody declares is "unknown". Called by: api (requests), forwarding, loading, gateway.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from cortex_gateway.exchange import Exchange, Outcome
from cortex_gateway.fleet.snapshot import Snapshot

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DURATION_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SPEED_BUCKETS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)


class Metrics:
    """One registry and everything in it."""

    def __init__(self, snapshot: Callable[[], Snapshot], in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        by_model = ("model", "dialect")
        self.requests = self._counter("requests", "Requests that have ended", (*by_model, "outcome"))
        self.upstream_errors = self._counter(
            "upstream_errors", "Answers of neurons that were none", ("neuron", "reason")
        )
        self.broken_streams = self._counter("broken_streams", "Streams that broke after they had begun", ("model",))
        self.disconnects = self._counter("client_disconnects", "Clients that left before the end", ("model",))
        self.tokens = self._counter("tokens", "Tokens, as neurons count them", ("model", "kind"))
        self.evictions = self._counter("evictions", "Models unloaded to make room", ("neuron",))
        self.recycles = self._counter(
            "recycles", "Models loaded anew after many evictions on their neuron", ("neuron", "result")
        )
        self.loads = self._counter("loads", "Loads that this gateway waited for", ("model", "result"))
        self.ttft = self._histogram("ttft_seconds", "To the first content of a stream", by_model, TTFT_BUCKETS_S)
        self.duration = self._histogram(
            "request_duration_seconds", "To the end of the answer", by_model, DURATION_BUCKETS_S
        )
        self.speed = self._histogram(
            "tokens_per_second", "Generated tokens by decode time, prefill excluded", ("model",), SPEED_BUCKETS
        )
        self.registry.register(_FleetCollector(snapshot, in_flight))

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self.registry)

    def ended(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        model, dialect = exchange.model, exchange.dialect.value
        self.requests.labels(model, dialect, exchange.outcome.value).inc()
        if exchange.outcome is Outcome.BROKEN:
            self.broken_streams.labels(model).inc()
        elif exchange.outcome is Outcome.CLIENT_GONE:
            self.disconnects.labels(model).inc()
        elif exchange.outcome is Outcome.OK:
            self.duration.labels(model, dialect).observe(exchange.duration_s)
        if exchange.first_content_s is not None:
            self.ttft.labels(model, dialect).observe(exchange.first_content_s)
        if (usage := exchange.usage) is not None:
            self.tokens.labels(model, "prompt").inc(usage.prompt_tokens)
            self.tokens.labels(model, "completion").inc(usage.completion_tokens)
            self.tokens.labels(model, "cached").inc(usage.cached_tokens)
            if usage.decode_ms > 0 and usage.completion_tokens > 1:
                # The first token is prefill's.
                self.speed.labels(model).observe((usage.completion_tokens - 1) * 1000 / usage.decode_ms)

    def forget(self, models: Iterable[str], neurons: Iterable[str]) -> None:
        """Drop the series of what is gone from the configuration."""
        for label, values in (("model", list(models)), ("neuron", list(neurons))):
            for metric in self._labelled(label):
                for value in values:
                    metric.remove_by_labels({label: value})

    def _labelled(self, label: str) -> Iterator[MetricWrapperBase]:
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase) and label in metric._labelnames:
                yield metric

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"cortex_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"cortex_{name}", text, labels, buckets=buckets, registry=self.registry)


class _FleetCollector(Collector):
    """Gauges read from the snapshot when they are asked for, so that none outlives its model or neuron."""

    def __init__(self, snapshot: Callable[[], Snapshot], in_flight: Callable[[], int]) -> None:
        self._snapshot, self._in_flight = snapshot, in_flight

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        running = GaugeMetricFamily("cortex_requests_in_flight", "Requests under way in this gateway")
        running.add_metric([], self._in_flight())
        up = GaugeMetricFamily("cortex_neuron_up", "1 where the neuron answers", labels=["neuron"])
        strikes = GaugeMetricFamily("cortex_neuron_strikes", "Polls missed in a row", labels=["neuron"])
        free = GaugeMetricFamily("cortex_device_vram_free_mb", "Free memory", labels=["neuron", "device"])
        for neuron in snapshot.neurons.values():
            up.add_metric([neuron.name], neuron.healthy)
            strikes.add_metric([neuron.name], neuron.strikes)
            for device in neuron.devices if neuron.healthy else ():
                free.add_metric([neuron.name, str(device.index)], device.vram_free_mb)
        models = GaugeMetricFamily(
            "cortex_model_status", "1 for the state a model is in", labels=["model", "neuron", "status"]
        )
        for replicas in snapshot.replicas.values():
            for replica in replicas:
                models.add_metric([replica.model.id, replica.neuron.name, replica.model.status.value], 1)
        yield from (running, up, strikes, free, models)
