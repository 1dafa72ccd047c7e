"""What stays of a loaded model while it sleeps: its weights at rest, and how an engine is made of them again.

Owns: the order of the two ways. Does not own: the copy (models.host_copy), or what an engine is. Called by: engine.rank
and engine.worker.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from cortex_neuron.models.host_copy import HostCopy
from cortex_neuron.protocol.failures import BadRequest

_MB = 1 << 20

Made = TypeVar("Made")


class Rest(Generic[Made]):
    """A model's `module` on its device, and `make`, which makes of it what computes: that has the cache, and is the
    caller's to let go of before the model sleeps."""

    def __init__(self, module: Any, device: torch.device, num_bytes: int, make: Callable[[], Made]) -> None:
        self._module, self._device, self._num_bytes, self._make = module, device, num_bytes, make
        self._copy: HostCopy | None = None
        self._asleep = False

    def begin(self) -> int:
        """Fall asleep; the MB of host memory that takes. Weights that are there already stay as they are."""
        if self._asleep:
            raise BadRequest("sleep: the model sleeps already")
        if self._device.type != "cpu":
            gc.collect()  # a fault may have left the cache in a circle; of a CPU's, not worth a third of a second
            self._copy = HostCopy(self._module, self._device)
        self._asleep = True
        return -(-(self._copy.num_bytes if self._copy is not None else self._num_bytes) // _MB)

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
