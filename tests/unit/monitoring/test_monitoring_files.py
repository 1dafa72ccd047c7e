"""The rules and the dashboard of the role monitoring, against Prometheus' own judgement and the metrics there are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import ROOT, page, rows

FILES = ROOT / "roles" / "monitoring" / "files"
RULES = FILES / "cortex.rules.yml"
RULE_TESTS = sorted(Path(__file__).parent.glob("rules/*.yml"))
DASHBOARD = json.loads((FILES / "cortex.json").read_text())
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
WANTED_BY_OPERATORS = {
    "CortexGatewayDown", "CortexNeuronDown", "CortexNoHealthyNeuron", "CortexErrorBudgetBurnsFast",
    "CortexErrorBudgetBurnsSlowly", "CortexStreamsBreak", "CortexFirstTokenSlow", "CortexModelFailed",
    "CortexCircuitOpen", "CortexEvictionsThrash", "CortexQueueGrows", "CortexDeviceMemoryNearlyFull",
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    """The program; where it is not installed, only continuous integration insists."""
    found = shutil.which("promtool")
    if found is None:
        missing = "promtool is not installed: .ci/install-tools, or Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", RULES), ("check", "config", FILES / "prometheus.yml")]
    + [("test", "rules", file) for file in RULE_TESTS],
    ids=lambda arguments: " ".join((*arguments[:2], arguments[2].name)),
)
def test_promtool_accepts_it(promtool: str, arguments: tuple[str, str, Any]) -> None:
    """Syntax of rules and configuration, and each alert over series that fire it and series that do not."""
    ended = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_tested_firing_and_silent() -> None:
    """By the files that promtool runs: one whose test only ever expects silence could not fail."""
    cases = [
        case
        for file in RULE_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(ALERTS)
    assert len(RULE_TESTS) == len(GROUPS)


def test_operators_are_told_what_they_need() -> None:
    """Every failure that needs a person has an alert, and each says how bad, what, why it matters and what to do."""
    assert set(ALERTS) >= WANTED_BY_OPERATORS
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        for words in ("summary", "description", "runbook"):
            assert len(alert["annotations"][words]) > 10, (name, words)


def test_every_metric_that_is_asked_for_exists() -> None:
    """docs/api.md has every metric of the code, by its own test."""
    known = _series_names()
    asked = [rule["expr"] for group in GROUPS for rule in group["rules"]] + list(_queries())
    assert len(asked) > 40
    for expression in asked:
        told = re.sub(r'"[^"]*"', '""', expression)
        assert set(re.findall(r"\b(?:cortex|neuron)_\w+", told)) <= known, expression
        assert set(re.findall(r"\bcortex:[\w:]+", told)) <= RECORDED, expression


def test_every_label_that_is_asked_for_is_one_of_the_metrics() -> None:
    """A label that is not there matches nothing, without a word."""
    labels = _labels()
    for expression in [rule["expr"] for group in GROUPS for rule in group["rules"]] + list(_queries()):
        for name, matchers in re.findall(r"\b((?:cortex|neuron)_\w+)\{([^}]*)\}", expression):
            asked = set(re.findall(r'(\w+)\s*(?:=~|!=|=|!~)\s*"', matchers))
            assert asked <= labels[_family(name)] | {"le", "instance", "job"}, (name, matchers)


def test_the_dashboard_is_what_grafana_takes() -> None:
    """Panels with ids of their own that lie on the grid, and queries that follow the chosen data source."""
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 30
    assert "id" not in DASHBOARD  # one would overwrite whatever has it
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "table", panel["title"]
    sources = list(_values(DASHBOARD, "datasource"))
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_no_panel_lies_over_another() -> None:
    """Grafana would move them, and the order would be chance's."""
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def _families() -> Iterator[list[str]]:
    text = page("api.md")
    for section in ("Metrics of the gateway", "Metrics of a neuron"):
        yield from rows(text, section)


def _labels() -> dict[str, set[str]]:
    return {name.strip("`"): set(filter(None, labels.split(", "))) for name, _, labels, _ in _families()}


def _series_names() -> set[str]:
    names: set[str] = set()
    for name, kind, _, _ in _families():
        plain = name.strip("`")
        names |= {plain + part for part in ("_bucket", "_sum", "_count")} if kind == "histogram" else {plain}
    return names


def _family(series: str) -> str:
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    return base if base in _labels() else series


def _queries() -> Iterator[str]:
    yield from _values(DASHBOARD["panels"], "expr")
    yield from _values(DASHBOARD["templating"], "definition")


def _values(node: Any, key: str) -> Iterator[Any]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(node, list):
        for each in node:
            yield from _values(each, key)
