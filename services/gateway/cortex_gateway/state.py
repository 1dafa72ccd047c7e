"""What the parts of one running gateway share, and what a request is decided by.

Owns: the current configuration, which a reload replaces as a whole. Called by: api, gateway.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_gateway.admission.gate import Admission
from cortex_gateway.admission.meter import Meter
from cortex_gateway.config import Config
from cortex_gateway.fleet.beliefs import Beliefs
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.forwarding.forwarder import Forwarder
from cortex_gateway.processes.workers import Worker, Workers
from cortex_gateway.records.access_log import AccessLog
from cortex_gateway.records.decisions import Decisions
from cortex_gateway.records.metrics import Metrics
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.routing.prefixes import PrefixMemory
from cortex_gateway.routing.rules import Rules

if TYPE_CHECKING:
    from cortex_serving.spans import Tracer


@dataclass(slots=True)
class State:
    """One gateway. `started_with` is what of `config` holds until a restart (config.NEED_A_RESTART)."""

    config: Config
    beliefs: Beliefs
    admission: Admission
    outstanding: Outstanding
    metrics: Metrics
    forwarder: Forwarder
    meter: Meter
    access_log: AccessLog
    decisions: Decisions = field(default_factory=Decisions)
    circuits: Circuits = field(default_factory=Circuits)
    tracer: Tracer | None = None
    worker: Worker = field(default_factory=lambda: Workers().seat(0))
    started_with: GatewaySettings = field(init=False)
    _prefixes: PrefixMemory = field(default_factory=PrefixMemory)
    _rules: Rules | None = None

    def __post_init__(self) -> None:
        self.started_with = self.config.settings.gateway

    def rules(self) -> Rules:
        """The rules of a request that begins now; the same value until a reload."""
        catalogue, strategy = self.config.catalogue.models, self.config.settings.eviction.strategy
        rules = self._rules
        if rules is None or rules.catalogue is not catalogue or rules.strategy != strategy:
            rules = self._rules = Rules(catalogue, self.outstanding, strategy, self.circuits, self._prefixes)
        return rules
