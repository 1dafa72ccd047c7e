"""Neurons and models made by hand, in few words. Called by: the tests of routing."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import ModelStatus, NeuronState
from cortex_gateway.fleet.snapshot import DeviceView, ModelView, NeuronView, Reach


def declared(model_id: str, vram_mb: int = 1000, **fields: Any) -> Model:
    """An entry of the catalogue."""
    return Model(id=model_id, source="-", vram_mb=vram_mb, **fields)


def neuron(
    name: str,
    *models: ModelView,
    free: tuple[int, ...] = (24000,),
    state: NeuronState = NeuronState.READY,
    reach: Reach = Reach.UP,
    kind: str = "cuda",
    harness: str = "torch",
) -> NeuronView:
    """A neuron with so much free on each of its devices of 24000 MB."""
    return NeuronView(
        name=name,
        url=f"http://{name}",
        reach=reach,
        state=state,
        device_kind=kind,
        devices=tuple(DeviceView(index, 24000, mb) for index, mb in enumerate(free)),
        harnesses=frozenset({harness}),
        models=MappingProxyType({model.id: model for model in models}),
    )


def on(model_id: str, status: ModelStatus = ModelStatus.LOADED, vram_used_mb: int = 1000, **fields: Any) -> ModelView:
    """A model on it."""
    return ModelView(model_id, status, vram_used_mb=vram_used_mb, **{"devices": (0,), **fields})


M = declared("m")
