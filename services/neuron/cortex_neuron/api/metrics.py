"""The neuron's Prometheus metrics: `neuron_*`.

Owns: names, labels, buckets. What models and devices are doing is read at the moment of the scrape, so that a gone
model's gauges are gone too (case M2). Called by: inference (counts), control (shows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex_contracts.wire.neuron import ModelStatus
from cortex_neuron.api.request_log import Outcome
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.residency.residency import Residency
from cortex_neuron.residency.resident import Resident

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_RATES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
_UNKNOWN = "unknown"  # one label value for every name that is no model's


class Metrics:
    """Counters and histograms of requests, and a look at what is loaded."""

    def __init__(self, residency: Residency, devices: DeviceWatch) -> None:
        self._known = residency.residents
        self._registry = CollectorRegistry()
        self._registry.register(_Present(residency, devices))
        self._requests = Counter(
            "neuron_requests", "Requests, by how they ended", ["model", "dialect", "outcome"], registry=self._registry
        )
        self._tokens = Counter(
            "neuron_tokens", "Tokens: prompt (cached included), cached, completion", ["model", "kind"],
            registry=self._registry,
        )  # fmt: skip
        self._duration = self._histogram("neuron_request_seconds", "From the request to the end of its answer")
        self._queue = self._histogram("neuron_queue_seconds", "Waiting for a seat in the engine")
        self._prefill = self._histogram("neuron_prefill_seconds", "Computing the prompt")
        self._first = self._histogram("neuron_first_token_seconds", "From the request to its first content")
        self._between = self._histogram("neuron_inter_token_seconds", "Between two tokens", _TOKEN_SECONDS)
        self._rate = self._histogram("neuron_decode_tokens_per_second", "A request's tokens/s, less prefill", _RATES)

    def count(self, outcome: Outcome, now: float) -> None:
        """A request has ended; `now` is event loop time."""
        model = outcome.model if outcome.model in self._known else _UNKNOWN
        record = outcome.record
        self._requests.labels(model, outcome.dialect, outcome.name).inc()
        if not record.prompt_tokens:
            return  # it was refused
        self._duration.labels(model).observe(now - outcome.started)
        kinds = {"prompt": record.prompt_tokens, "cached": record.cached_tokens, "completion": record.completion_tokens}
        for kind, tokens in kinds.items():
            self._tokens.labels(model, kind).inc(tokens)
        if record.first_content_at is not None:
            self._first.labels(model).observe(record.first_content_at - outcome.started)
        if record.first_content_at is not None and record.computed:
            self._queue.labels(model).observe(record.queue_ms / 1000)
            self._prefill.labels(model).observe(record.prefill_ms / 1000)
        if record.decoded_tokens and record.decode_ms > 0:
            self._between.labels(model).observe(record.decode_ms / 1000 / record.decoded_tokens)
            self._rate.labels(model).observe(record.decoded_tokens / record.decode_ms * 1000)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, words, ["model"], buckets=buckets, registry=self._registry)


class _Present(Collector):
    """Gauges of what is there now."""

    def __init__(self, residency: Residency, devices: DeviceWatch) -> None:
        self._residency = residency
        self._devices = devices

    def collect(self) -> Iterator[Metric]:
        present = [each for each in self._residency.residents.values() if each.status is not ModelStatus.UNLOADED]
        yield from _of_models(present)
        yield from _of_serving(present)
        yield _deaths(self._residency.residents.values())
        yield self._memory()

    def _memory(self) -> Metric:
        family = GaugeMetricFamily("neuron_device_memory_mb", "Device memory in MiB", labels=["device", "kind"])
        for device in self._devices.now.health:
            family.add_metric([str(device.index), "used"], device.vram_used_mb)
            family.add_metric([str(device.index), "free"], device.vram_free_mb)
        return family


def _of_models(present: list[Resident]) -> Iterator[Metric]:
    status = GaugeMetricFamily("neuron_model_status", "1 for the state each model is in", labels=["model", "status"])
    in_flight = GaugeMetricFamily("neuron_requests_in_flight", "Sequences that run or wait", labels=["model"])
    load = GaugeMetricFamily("neuron_model_load_seconds", "How long the last load took", labels=["model"])
    host = GaugeMetricFamily(
        "neuron_model_host_memory_mb", "Host memory of models that sleep, in MiB", labels=["model"]
    )
    for each in present:
        if each.asleep is not None:
            host.add_metric([each.model.id], each.asleep.host_mb)
        status.add_metric([each.model.id, each.status], 1)
        in_flight.add_metric([each.model.id], each.seats_taken)
        if each.load_s is not None:
            load.add_metric([each.model.id], each.load_s)
    yield from (status, in_flight, load, host)


def _of_serving(present: list[Resident]) -> Iterator[Metric]:
    depth = GaugeMetricFamily("neuron_queue_depth", "Sequences that wait for a seat", labels=["model"])
    running = GaugeMetricFamily("neuron_sequences_running", "Sequences in the engine's batch", labels=["model"])
    blocks = GaugeMetricFamily("neuron_kv_blocks", "Blocks of the KV cache", labels=["model", "kind"])
    steps = CounterMetricFamily("neuron_engine_steps", "Steps since the model was loaded", labels=["model"])
    drafts = CounterMetricFamily(
        "neuron_draft_tokens", "Tokens drafted since the model was loaded, and those that were right",
        labels=["model", "kind"],
    )  # fmt: skip
    for each in present:
        if each.serving is not None:
            figures, name = each.serving.figures, each.model.id
            depth.add_metric([name], figures.waiting)
            running.add_metric([name], figures.running)
            blocks.add_metric([name, "total"], each.serving.size.kv_blocks)
            blocks.add_metric([name, "free"], figures.kv_blocks_free)
            steps.add_metric([name], figures.steps)
            if each.model.speculative is not None:
                drafts.add_metric([name, "drafted"], figures.drafted)
                drafts.add_metric([name, "accepted"], figures.accepted)
    yield from (depth, running, blocks, steps, drafts)


def _deaths(residents: Iterable[Resident]) -> Metric:
    family = CounterMetricFamily("neuron_group_deaths", "Engine groups that died, by kind", labels=["model", "kind"])
    for each in residents:
        for kind, times in each.deaths.items():
            family.add_metric([each.model.id, kind], times)
    return family
