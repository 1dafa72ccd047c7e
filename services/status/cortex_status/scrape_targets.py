"""Where Prometheus finds the metrics of a fleet: one group of targets for each service of each host.

Owns: the labels, of which cortex.rules.yml and the dashboard know `job`. Called by: the filters of ansible/plugins.
"""

from __future__ import annotations

from typing import TypedDict

from cortex_contracts.inventory.fleet import Fleet
from cortex_status.fleet_status.addresses import seen_at


class Targets(TypedDict):
    """One entry of a file for Prometheus' file_sd_configs."""

    targets: list[str]
    labels: dict[str, str]


def scrape_targets(fleet: Fleet) -> list[Targets]:
    """Every gateway's metrics and every neuron's."""
    gateways = [
        _targets("cortex-gateway", gateway.name, seen_at(gateway.metrics_listen, gateway.address))
        for gateway in fleet.gateways
    ]
    neurons = [_targets("cortex-neuron", neuron.name, neuron.url.removeprefix("http://")) for neuron in fleet.neurons]
    return [*gateways, *neurons]


def _targets(job: str, host: str, target: str) -> Targets:
    return {"targets": [target], "labels": {"job": job, "host": host}}
