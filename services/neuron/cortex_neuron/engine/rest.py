"""What stays of a loaded model while it sleeps: its weights at rest, and how an engine is made of them again.

Owns: the order of the two ways. Does not own: the copy (models.host_copy), or what an engine is. Called by: engine.rank
and engine.worker.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

from cortex_neuron.models.host_copy import HostCopy
from cortex_neuron.protocol.failures import BadRequest

_MB = 1 << 20

Made = TypeVar("Made")


class Weights(Protocol):
    """Those of a model, as models.loaded and models.vector_model have them."""

    @property
    def module(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def num_bytes(self) -> int: ...


class Rest(Generic[Made]):
    """Models of one rank, all on its device, and `make`, which makes of them what computes: that has the caches, and is
    the caller's to let go of before they sleep."""

    def __init__(self, make: Callable[[], Made], *models: Weights) -> None:
        self._make, self._models = make, models
        self._copy: HostCopy | None = None
        self._asleep = False

    def begin(self) -> int:
        """Fall asleep; the MB of host memory that takes. Weights that are there already stay as they are."""
        if self._asleep:
            raise BadRequest("sleep: the model sleeps already")
        device, num_bytes = self._models[0].device, sum(model.num_bytes for model in self._models)
        if device.type != "cpu":
            gc.collect()  # a fault may have left the cache in a circle; of a CPU's, not worth a third of a second
            self._copy = HostCopy([model.module for model in self._models], device)
            num_bytes = self._copy.num_bytes
        self._asleep = True
        return -(-num_bytes // _MB)

    def end(self, progress: Callable[[str, float], None]) -> Made:
        """Wake up."""
        if not self._asleep:
            raise BadRequest("wake: the model does not sleep")
        progress("weights", 0.1)
        if self._copy is not None:
            self._copy.restore()
            self._copy = None
        progress("cache", 0.9)
        made = self._make()
        self._asleep = False
        return made
