"""docs/observability.md against the rules, the log lines and the spans."""

from __future__ import annotations

import re

import yaml
from pages import ROOT, page, rows

TEXT = page("observability.md")


def test_every_alert_has_its_row_and_every_row_its_alert() -> None:
    """With its severity."""
    groups = yaml.safe_load((ROOT / "roles/monitoring/files/cortex.rules.yml").read_text())["groups"]
    alerts = [
        (f"`{rule['alert']}`", rule["labels"]["severity"]) for g in groups for rule in g["rules"] if "alert" in rule
    ]
    assert sorted((name, severity) for name, severity, _ in rows(TEXT, "Dashboard and alerts")) == sorted(alerts)


def test_every_series_that_is_named_is_one() -> None:
    """Those of api.md, and those that the rules record."""
    api = page("api.md")
    known = {row[0].strip("`") for of in ("the gateway", "a neuron") for row in rows(api, f"Metrics of {of}")}
    told = set(re.findall(r"`((?:cortex|neuron)_\w+)`", TEXT)) - {"neuron_otlp_endpoint", "cortex_operators"}
    assert told <= known
    recorded = (ROOT / "roles/monitoring/files/cortex.rules.yml").read_text()
    assert all(f"record: {name}" in recorded for name in re.findall(r"`(cortex:[\w:]+)`", TEXT))


def test_every_field_of_a_log_line_is_told() -> None:
    """Of the gateway's line, and of the neuron's."""
    told = {field for fields, *_ in rows(TEXT, "Logs") for field in re.findall(r"`(\w+)`", fields)}
    gateway = (ROOT / "services/gateway/cortex_gateway/api/inference.py").read_text()
    neuron = (ROOT / "services/neuron/cortex_neuron/api/request_log.py").read_text()
    written = gateway[gateway.index("def _log(") : gateway.index("async def answer_exception")]
    fields = set(re.findall(r"^\s+(\w+)=", written + neuron[neuron.index("def write") :], re.M))
    assert len(fields) > 15
    assert fields <= told
