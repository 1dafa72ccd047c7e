"""Hosts that run Prometheus, and perhaps Grafana: variables of the role `monitoring`.

Owns: names, types and defaults of these, which are those of Debian's and Grafana's packages. Does not own: which hosts
are scraped (every gateway and neuron).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cortex_contracts.inventory.fleet import Folder, Program
from cortex_contracts.inventory.strict import Strict


class Monitoring(Strict):
    """A host of the group `monitoring`: variables `monitoring_*`."""

    prometheus_dir: Annotated[
        Folder, Field(description="Folder of prometheus.yml, which gets cortex.targets.json and cortex.rules.yml")
    ] = "/etc/prometheus"
    prometheus_unit: Annotated[
        str, Field(description="Unit that is reloaded when the rules have changed; empty for none")
    ] = "prometheus"
    promtool: Annotated[
        Program, Field(description="Program that judges the rules before they are put in place, where it is there")
    ] = "/usr/bin/promtool"
    grafana_dir: Annotated[
        Folder | Literal[""],
        Field(
            description="Folder of grafana.ini; where it is there, its provisioning is told of the dashboard",
            examples=["", "/etc/grafana"],
        ),
    ] = "/etc/grafana"
    grafana_dashboards_dir: Annotated[Folder, Field(description="Folder for the dashboard")] = (
        "/var/lib/grafana/dashboards"
    )
