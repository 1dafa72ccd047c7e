"""docs/api.md, by which clients and dashboards are written, against what the services answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pages import page, rows
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from sanic import Sanic

from cortex_contracts.inventory import fleet
from cortex_contracts.inventory.files import GatewayFile, KeysFile, NeuronSection
from cortex_contracts.wire import anthropic, embeddings, errors, openai, rerank, responses
from cortex_contracts.wire.openapi import Route
from cortex_dialects import unsupported
from cortex_dialects.json_body import MAX_DEPTH
from cortex_gateway.admission.gate import Admission
from cortex_gateway.admission.keys import Keys
from cortex_gateway.admission.meter import Meter
from cortex_gateway.api import fleet as fleet_api
from cortex_gateway.api import routes
from cortex_gateway.catalogue import Catalogue
from cortex_gateway.config import Config
from cortex_gateway.exchange import Outcome
from cortex_gateway.fleet.beliefs import Beliefs
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.forwarding.forwarder import Forwarder
from cortex_gateway.processes.workers import Workers
from cortex_gateway.records.access_log import AccessLog
from cortex_gateway.records.metrics import Metrics as GatewayMetrics
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.state import State
from cortex_neuron.api import application
from cortex_neuron.api.metrics import Metrics as NeuronMetrics
from cortex_neuron.api.neuron import Neuron
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.protocol.frames import SamplingParams
from cortex_neuron.residency.activation import Preloads
from cortex_neuron.residency.drain_mark import DrainMark
from cortex_neuron.residency.loading import Loader
from cortex_neuron.residency.residency import Residency

TEXT = page("api.md")
OPENAI = {"chat": openai.ChatRequest, "completions": openai.CompletionRequest}
RESPONSES = {"responses": responses.ResponsesRequest, "input_tokens": responses.InputTokensRequest}
ANTHROPIC = {"messages": anthropic.MessagesRequest, "count_tokens": anthropic.CountTokensRequest}


def gateway() -> State:
    """One that asks nobody."""
    worker, beliefs, catalogue = Workers().seat(0), Beliefs(()), Catalogue.of(())
    admission, metrics = Admission(worker), GatewayMetrics(beliefs.snapshot, lambda: (), worker, Circuits())
    config = Config(GatewayFile(), catalogue, Keys.of(KeysFile(), catalogue))
    meter = Meter(worker.ledger, config.keys, metrics.refused)
    forwarder: Forwarder = None  # type: ignore[assignment]  nobody asks
    return State(config, beliefs, admission, Outstanding(), metrics, forwarder, meter, AccessLog(""))


def neuron() -> Neuron:
    """One that loads nothing."""
    settings, devices = NeuronSection(name="here"), DeviceWatch("cpu")
    harnesses = {"torch": Loader(settings, "no.module")}
    residency = Residency(settings, (), devices, harnesses, DrainMark("/nowhere"))
    return Neuron(settings, devices, residency, Preloads("here", residency), NeuronMetrics(residency, devices), "1")


def declared(table: Iterator[Route]) -> set[str]:
    return {f"`{route.method} {route.path}`" for route in table}


def routed(app: Sanic[Any, Any]) -> set[str]:
    paths = [
        (re.sub(r"<(\w+):path>", r"{\1}", route.path), method)
        for route in app.router.routes
        for method in route.methods - {"HEAD"}
    ]
    return {f"`{method} /{path}`" for path, method in paths}


async def test_every_route_has_its_row_and_every_row_its_route() -> None:
    """Those of the OpenAPI documents, and those that are routed without standing in one."""
    state, parts = gateway(), neuron()
    at_gateway = declared(iter((*routes.INFERENCE, *routes.PAGES, *fleet_api.ROUTES)))
    at_gateway |= routed(routes.api(state, operations=None)) | routed(routes.metrics_page(state.metrics))
    at_neuron = declared(route for route, _ in application.ROUTES) | routed(application.build(parts))
    assert {row[0] for row in rows(TEXT, "Routes of the gateway")} == at_gateway
    assert {row[0] for row in rows(TEXT, "Routes of a neuron")} == at_neuron


@pytest.mark.parametrize(
    ("section", "shapes"),
    [
        ("Parameters of OpenAI's routes", OPENAI),
        ("Parameters of responses", RESPONSES),
        ("Parameters of Anthropic's routes", ANTHROPIC),
    ],
)
def test_every_parameter_has_its_row_with_its_limits(section: str, shapes: Mapping[str, type[BaseModel]]) -> None:
    """Each of each route, its numbers, and the value it has where nobody gives one."""
    told = [(row[0].strip("`"), route, row[-1]) for row in rows(TEXT, section) for route in _routes(row[1:-1], shapes)]
    assert Counter((name, route) for name, route, _ in told) == Counter(
        (name, route) for route, shape in shapes.items() for name in shape.model_fields
    )
    for name, route, text in told:
        schema = shapes[route].model_json_schema()["properties"][name]
        assert {bound for bound in _bounds(schema) if abs(bound) <= 1000} <= _numbers(text), (name, text)
    if shapes is not ANTHROPIC:
        defaults = {name: float(match[1]) for name, _, text in told if (match := re.search(r"default (-?\d+)", text))}
        assert {name: float(getattr(SamplingParams(), name)) for name in defaults} == defaults


@pytest.mark.parametrize(
    ("section", "shape"),
    [("Parameters of embeddings", embeddings.EmbeddingRequest), ("Parameters of rerank", rerank.RerankRequest)],
)
def test_every_parameter_of_a_route_that_writes_nothing_has_its_row(section: str, shape: type[BaseModel]) -> None:
    """With its numbers; how many texts there may be stands among the limits, too."""
    told = {name.strip("`"): text for name, text in rows(TEXT, section)}
    assert list(told) == list(shape.model_fields)
    for name, schema in shape.model_json_schema()["properties"].items():
        assert {bound for bound in _bounds(schema) if bound <= 10_000} <= _numbers(told[name]), name
    most = [str(embeddings.MOST_INPUTS), "400 `invalid_parameter`"]
    assert embeddings.MOST_INPUTS == rerank.MOST_DOCUMENTS
    assert ["texts or documents of a request", *most] in rows(TEXT, "Limits")


def test_every_refused_parameter_has_its_row_and_every_row_is_refused() -> None:
    """With the values that ask for nothing."""
    tables = {
        "chat": unsupported.CHAT,
        "completions": unsupported.COMPLETION,
        "responses": unsupported.RESPONSES,
        "input_tokens": unsupported.INPUT_TOKENS,
        "messages": unsupported.MESSAGES,
    }
    tables |= {"embeddings": unsupported.EMBEDDING, "rerank": unsupported.RERANK}
    refused = {
        (name, route, " or ".join(f"`{json.dumps(value)}`" for value in accepted))
        for route, table in tables.items()
        for name, accepted in table.items()
    }
    told = rows(TEXT, "Parameters that are refused")
    assert {(name.strip("`"), route, accepted) for name, of, accepted in told for route in of.split(", ")} == refused


def test_every_error_code_has_its_row_with_status_and_retry_after() -> None:
    """The whole tree, and nothing that has left it."""
    told = [
        (code.strip("`"), int(status), int(wait) if wait else None) for code, status, wait, _ in rows(TEXT, "Errors")
    ]
    raised = [(each.code, each.status, each.default_retry_after_s) for each in _tree(errors.CortexError)]
    assert Counter(told) == Counter(raised)


@pytest.mark.parametrize("name", ["gateway", "neuron"])
async def test_every_metric_has_its_row_and_every_row_its_metric(name: str) -> None:
    """Name, type, labels and buckets, from the registry that is scraped."""
    registry = gateway().metrics.registry if name == "gateway" else neuron().metrics._registry
    section = "Metrics of the gateway" if name == "gateway" else "Metrics of a neuron"
    told = {(metric.strip("`"), kind, labels) for metric, kind, labels, _ in rows(TEXT, section)}
    assert told == {(metric, kind, ", ".join(labels)) for metric, kind, labels, _ in _families(registry)}
    buckets = {metric.strip("`"): bounds for metric, bounds in rows(TEXT, "Buckets")}
    for metric, kind, _, bounds in _families(registry):
        if kind == "histogram":
            assert buckets[metric] == ", ".join(f"{bound:g}" for bound in bounds)


def test_nothing_has_buckets_that_is_no_histogram() -> None:
    """A histogram that is gone takes its row along."""
    told = [row for section in ("Metrics of the gateway", "Metrics of a neuron") for row in rows(TEXT, section)]
    assert [row[0] for row in rows(TEXT, "Buckets")] == [row[0] for row in told if row[1] == "histogram"]


def test_the_words_of_labels_and_limits_are_the_codes_own() -> None:
    """Outcomes of requests, and the depth of JSON."""
    (requests,) = [row for row in rows(TEXT, "Metrics of the gateway") if row[0] == "`cortex_requests_total`"]
    assert set(re.findall(r"`(\w+)`", requests[3])) == {outcome.value for outcome in Outcome}
    assert ["nesting of JSON", str(MAX_DEPTH), "400 `invalid_json`"] in rows(TEXT, "Limits")


def test_every_setting_that_is_named_is_one() -> None:
    """With its default, where that is told."""
    metrics = {row[0].strip("`") for row in rows(TEXT, "Metrics of a neuron")}
    for role, setting, default in re.findall(r"`(gateway|neuron)_(\w+)`(?: \((\d+)\))?", TEXT):
        if f"{role}_{setting}" not in metrics:
            field = (fleet.Gateway if role == "gateway" else fleet.Neuron).model_fields[setting]
            assert not default or field.default == int(default), setting


def _routes(of: list[str], shapes: Mapping[str, type[BaseModel]]) -> list[str]:
    """Those of a row, whose table tells them where there are several."""
    return list(shapes) if of in (["both"], []) else of


def _bounds(schema: Any) -> Iterator[float]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("minimum", "maximum", "exclusiveMinimum", "maxItems"):
                yield value
            yield from _bounds(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _bounds(each)


def _numbers(text: str) -> set[float]:
    return {float(number) for number in re.findall(r"-?\d+", text)}


def _tree(error: type[errors.CortexError]) -> Iterator[type[errors.CortexError]]:
    yield error
    for each in error.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from _tree(each)


def _families(registry: CollectorRegistry) -> Iterator[tuple[str, str, tuple[str, ...], tuple[float, ...]]]:
    """Name as it is scraped, type, labels, buckets; also of what has no series yet."""
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            bounds = collector._kwargs["buckets"] if isinstance(collector, Histogram) else ()
            yield _scraped(collector._name, collector._type), collector._type, tuple(collector._labelnames), bounds
        else:
            for family in collector.collect():
                yield _scraped(family.name, family.type), family.type, tuple(family._labelnames), ()  # type: ignore[attr-defined]


def _scraped(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name
