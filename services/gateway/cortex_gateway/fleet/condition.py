"""What a neuron is doing, as the gateway reads it off a report: of wire.neuron.Condition what it decides by or shows.

Owns: the shapes. Structs, because a thousand are read each second: pydantic's, which are the contract, cost five times
as much. Called by: probe.py (reads), beliefs.py, api (shows).
"""

from __future__ import annotations

import msgspec

from cortex_contracts.wire.neuron import NeuronState


class DeviceCondition(msgspec.Struct, frozen=True):
    """Of wire.neuron.DeviceHealth."""

    index: int
    vram_free_mb: int
    utilization_pct: int | None = None
    temp_c: int | None = None


class ModelCondition(msgspec.Struct, frozen=True):
    """Of wire.neuron.ModelHealth."""

    id: str
    in_flight: int = 0
    queue_depth: int = 0


class Condition(msgspec.Struct, frozen=True):
    """Of wire.neuron.Condition."""

    state: NeuronState
    devices: list[DeviceCondition]
    models: list[ModelCondition]
    version: str
