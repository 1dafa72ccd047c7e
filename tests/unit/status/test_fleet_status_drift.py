"""Declared against running, one rule a case; nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Fleet, GatewayHost, Model, NeuronHost
from cortex_status.fleet_status.drift import find
from cortex_status.fleet_status.findings import FindingKind
from cortex_status.fleet_status.observed import (
    Catalogue,
    GatewayHealth,
    GatewaySeen,
    GatewayVersion,
    NeuronSeen,
    Observed,
)

K = FindingKind
Answers = dict[str, Any]
Change = Callable[[dict[str, Any], Answers, Answers], object]


def declared() -> dict[str, Any]:
    """What the answers of conftest.py match."""
    return {
        "gateways": [{"name": "gw", "address": "10.0.0.1"}],
        "neurons": [{"name": "rack1", "address": "10.0.0.11", "devices": (0, 1)}],
        "models": {
            "qwen3-8b": {"source": "Qwen/Qwen3-8B", "vram_mb": 20000, "tensor_parallel": 2, "context": 32768,
                         "preload_on": ("rack1",), "pinned_on": ("rack1",)},
            "gemma": {"source": "google/gemma", "vram_mb": 9000},
            "llama": {"source": "meta/llama", "vram_mb": 9000, "aliases": ("small",)},
        },
    }  # fmt: skip


def fleet(words: dict[str, Any]) -> Fleet:
    return Fleet(
        gateways=tuple(GatewayHost(**gateway) for gateway in words["gateways"]),
        neurons=tuple(NeuronHost(**neuron) for neuron in words["neurons"]),
        models=tuple(Model(id=name, **entry) for name, entry in words["models"].items()),
    )


def gateway_seen(answers: Answers) -> GatewaySeen:
    return GatewaySeen(
        name="gw",
        url="http://10.0.0.1:31313",
        problems=answers.get("problems", []),
        health=GatewayHealth.model_validate(answers["/health"]) if "/health" in answers else None,
        catalogue=Catalogue.model_validate(answers["/v1/models"]) if "/v1/models" in answers else None,
        version_answer=GatewayVersion.model_validate(answers["/version"]) if "/version" in answers else None,
    )


def neuron_seen(answers: Answers, name: str = "rack1") -> NeuronSeen:
    parts = {"health": "/health", "models": "/models", "discovery": "/discovery", "version_answer": "/version"}
    present = {field: answers[path] for field, path in parts.items() if path in answers}
    return NeuronSeen.model_validate(
        {"name": name, "url": f"http://{name}:13131", "problems": answers.get("problems", []), **present}
    )


def row(neuron: Answers, number: int) -> dict[str, Any]:
    found: dict[str, Any] = neuron["/models"][number]
    return found


def silent(answers: Answers, reason: str) -> None:
    answers.clear()
    answers["problems"] = [{"reason": reason, "endpoint": "/health", "message": "no answer within 5 s"}]


def upgrade(answers: Answers) -> None:
    for path in answers.keys() - {"/models", "/v1/models"}:
        answers[path]["version"] = "0.2.0"


def fail(entry: dict[str, Any], status: str) -> None:
    entry["status"] = status
    entry["failure"] = {"kind": "out_of_memory", "rank": 1, "message": "needs 3 GiB more"}


def test_a_fleet_that_is_as_declared_has_no_findings(gateway_answers: Answers, neuron_answers: Answers) -> None:
    """The base of every case below: whatever is found there comes from the case's one change."""
    observed = Observed(gateways=[gateway_seen(gateway_answers)], neurons=[neuron_seen(neuron_answers)])
    assert find(fleet(declared()), observed) == []


# change(what the inventory declares, the gateway's answers, the neuron's answers) -> kind, host, model, words
CASES: dict[str, tuple[Change, FindingKind, str | None, str | None, str]] = {
    "neuron silent": (lambda d, g, n: silent(n, "timed_out"), K.HOST_UNREACHABLE, "rack1", None,
                      "neuron http://rack1:13131/health: timed out: no answer within 5 s"),
    "gateway silent": (lambda d, g, n: silent(g, "refused"), K.HOST_UNREACHABLE, "gw", None, "refused"),
    "a stranger answers": (lambda d, g, n: silent(n, "bad_answer"), K.BAD_ANSWER, "rack1", None,
                           "neuron http://rack1:13131/health: bad answer"),
    "endpoint broken": (lambda d, g, n: n.update(problems=[
        {"reason": "bad_answer", "endpoint": "/version", "message": "HTTP status 500"}]) or n.pop("/version"),
        K.BAD_ANSWER, "rack1", None, "/version: bad answer: HTTP status 500"),
    "versions": (lambda d, g, n: upgrade(n), K.VERSION_DIFFERS, None, None, "0.1.0 on gw; 0.2.0 on rack1"),
    "releases": (lambda d, g, n: n["/version"].update(release="r2"), K.RELEASE_DIFFERS, None, None,
                 "hosts run different releases: r1 on gw; r2 on rack1"),
    "no release": (lambda d, g, n: n["/version"].update(release=None), K.RELEASE_DIFFERS, None, None,
                   "none on rack1; r1 on gw"),
    "restart": (lambda d, g, n: g["/version"].update(awaits_restart=["gateway.listen", "gateway.workers"]),
                K.AWAITS_RESTART, "gw", None,
                "other values than its cortex.toml has: gateway.listen, gateway.workers; restart it"),
    "gateway unwell": (lambda d, g, n: g["/health"].update(status="stopping"), K.HOST_UNHEALTHY, "gw", None,
                       "says of itself: stopping"),
    "stopping": (lambda d, g, n: n["/health"].update(state="stopping"), K.HOST_UNHEALTHY, "rack1", None, "stopping"),
    "driver": (lambda d, g, n: n["/discovery"].update(driver_problem="driver/library version mismatch: reboot"),
               K.DRIVER_PROBLEM, "rack1", None, "reboot"),
    "device gone": (lambda d, g, n: n["/discovery"]["devices"].pop(), K.DEVICES_MISSING, "rack1", None,
                    "neuron_devices is [0, 1]; the host has no GPU [1]"),
    "drained": (lambda d, g, n: n["/health"].update(state="draining"), K.DRAINED, "rack1", None,
                "neuron_drained: false"),
    "undrained": (lambda d, g, n: d["neurons"][0].update(drained=True), K.NOT_DRAINED, "rack1", None,
                  "neuron_drained: true"),
    "stray model": (lambda d, g, n: n["/models"].append({"id": "mine", "harness": "torch", "status": "loaded"}),
                    K.MODEL_UNDECLARED, "rack1", "mine", "mine is loaded; cortex_models does not declare it"),
    "stray in catalogue": (lambda d, g, n: g["/v1/models"]["data"].append({"id": "old"}),
                           K.MODEL_UNDECLARED, "gw", "old", "gateway lists a model old"),
    "missing in catalogue": (lambda d, g, n: g["/v1/models"]["data"].pop(1), K.MODEL_UNKNOWN, "gw", "gemma",
                             "does not list the model gemma"),
    "preload unloaded": (lambda d, g, n: row(n, 0).update(status="unloaded"), K.MODEL_NOT_LOADED, "rack1", "qwen3-8b",
                         "qwen3-8b is unloaded; its preload_on and pinned_on names this host"),
    "preload loading": (lambda d, g, n: d["models"]["gemma"].update(preload_on=("rack1",)), K.MODEL_NOT_LOADED,
                        "rack1", "gemma", "loading (weights 43%)"),
    "pinned elsewhere": (lambda d, g, n: d["models"]["llama"].update(pinned_on=("rack1",)), K.MODEL_NOT_LOADED,
                         "rack1", "llama", "llama is unloaded; its pinned_on names this host"),
    "preload unknown": (lambda d, g, n: n["/models"].pop(0), K.MODEL_NOT_LOADED, "rack1", "qwen3-8b",
                        "unknown to the host"),
    "failed": (lambda d, g, n: fail(row(n, 0), "failed"), K.MODEL_FAILED, "rack1", "qwen3-8b",
               "qwen3-8b is failed: out_of_memory on rank 1: needs 3 GiB more"),
    "recovering": (lambda d, g, n: row(n, 0).update(status="recovering"), K.MODEL_RECOVERING, "rack1", "qwen3-8b",
                   "recovering"),
    "harness": (lambda d, g, n: row(n, 0).update(harness="vllm"), K.HARNESS_DIFFERS, "rack1", "qwen3-8b",
                "harness vllm; the inventory says torch"),
    "context": (lambda d, g, n: row(n, 0).update(context=8192), K.CONTEXT_DIFFERS, "rack1", "qwen3-8b",
                "context 8192; the inventory says 32768"),
    "tensor parallel": (lambda d, g, n: row(n, 0).update(devices=[1]), K.TENSOR_PARALLEL_DIFFERS, "rack1", "qwen3-8b",
                        "devices [1]; the inventory says tensor_parallel: 2"),
    "neuron unknown": (lambda d, g, n: g["/health"].update(neurons=[]), K.NEURON_UNKNOWN, "gw", None,
                       "does not know the neuron rack1"),
    "neuron undeclared": (lambda d, g, n: g["/health"]["neurons"].append({"name": "old", "url": "http://10.0.0.9:1"}),
                          K.NEURON_UNDECLARED, "gw", None, "old (http://10.0.0.9:1)"),
    "neuron moved": (lambda d, g, n: g["/health"]["neurons"][0].update(url="http://10.0.0.99:13131"),
                     K.NEURON_ADDRESS_DIFFERS, "gw", None, "the inventory says http://10.0.0.11:13131"),
    "disbelieved": (lambda d, g, n: g["/health"]["neurons"][0].update(healthy=False), K.NEURON_DISBELIEVED, "gw", None,
                    "takes the neuron rack1 for dead"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_difference_is_exactly_one_finding(case: str, gateway_answers: Answers, neuron_answers: Answers) -> None:
    """A change of one thing gives one finding, with its kind, host, model and both sides in its words."""
    change, kind, host, model, words = CASES[case]
    inventory = declared()
    change(inventory, gateway_answers, neuron_answers)
    observed = Observed(gateways=[gateway_seen(gateway_answers)], neurons=[neuron_seen(neuron_answers)])
    found = find(fleet(inventory), observed)
    assert [(finding.kind, finding.host, finding.model) for finding in found] == [(kind, host, model)]
    assert words in found[0].message


def test_every_kind_of_finding_has_a_case() -> None:
    """A rule without a case is a rule nobody has seen to work."""
    assert {kind for _, kind, *_ in CASES.values()} == set(FindingKind)


QUIET: dict[str, Change] = {
    "a declared alias in the catalogue": lambda d, g, n: g["/v1/models"]["data"].append({"id": "small"}),
    "an unloaded model of an older catalogue": lambda d, g, n: n["/models"].append(
        {"id": "old", "harness": "torch", "status": "unloaded"}),
    "a context that is not known yet": lambda d, g, n: row(n, 0).update(context=None),
    "a context that is not declared": lambda d, g, n: d["models"]["qwen3-8b"].update(context=None),
    "all devices, however many": lambda d, g, n: (
        d["neurons"][0].update(devices="all"), n["/discovery"]["devices"].pop()),
    "a drained host's preloads": lambda d, g, n: (
        d["neurons"][0].update(drained=True), n["/health"].update(state="draining"),
        row(n, 0).update(status="unloaded")),
    "a slash at the end of a URL": lambda d, g, n: g["/health"]["neurons"][0].update(url="http://10.0.0.11:13131/"),
    "a gateway that tells less": lambda d, g, n: (g["/health"].clear(), g["/v1/models"]["data"][0].clear(),
                                                  g["/v1/models"]["data"][0].update(id="qwen3-8b")),
    "ranks that share a CPU": lambda d, g, n: (
        d["neurons"][0].update(devices="cpu"), n["/discovery"].update(device_kind="cpu"),
        row(n, 0).update(devices=[0])),
}  # fmt: skip


@pytest.mark.parametrize("case", QUIET)
def test_what_is_no_drift_is_not_reported(case: str, gateway_answers: Answers, neuron_answers: Answers) -> None:
    """A finding that is always there teaches operators to look away."""
    inventory = declared()
    QUIET[case](inventory, gateway_answers, neuron_answers)
    observed = Observed(gateways=[gateway_seen(gateway_answers)], neurons=[neuron_seen(neuron_answers)])
    assert find(fleet(inventory), observed) == []


def test_a_gpu_host_that_fell_back_to_its_cpu_misses_its_devices(
    gateway_answers: Answers, neuron_answers: Answers
) -> None:
    """A CPU's device has index 0 as well; it does not stand for GPU 0."""
    neuron_answers["/discovery"].update(
        device_kind="cpu", devices=[{"index": 0, "name": "AMD EPYC", "vram_total_mb": 64000}]
    )
    observed = Observed(gateways=[gateway_seen(gateway_answers)], neurons=[neuron_seen(neuron_answers)])
    assert [finding.kind for finding in find(fleet(declared()), observed)] == [K.DEVICES_MISSING]


def test_a_dead_neuron_that_the_gateway_knows_dead_is_one_finding(
    gateway_answers: Answers, neuron_answers: Answers
) -> None:
    """A dead host is one line, not one for each of its models and each gateway."""
    silent(neuron_answers, "refused")
    gateway_answers["/health"]["status"] = "unavailable"
    gateway_answers["/health"]["neurons"][0]["healthy"] = False
    observed = Observed(gateways=[gateway_seen(gateway_answers)], neurons=[neuron_seen(neuron_answers)])
    assert [finding.kind for finding in find(fleet(declared()), observed)] == [K.HOST_UNREACHABLE]
