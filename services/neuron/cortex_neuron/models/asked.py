"""A load, as one rank is asked for it.

Called by: models.loader, models.module_loader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cortex_neuron.layers.parallel import Collectives

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A load, its device found. `collectives` of several ranks, or None for a whole model."""

    path: Path
    device: torch.device
    quant: str | None
    text_dir: Path
    threads: int
    progress: Progress
    collectives: Collectives | None

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def writes_text(self) -> bool:
        """One rank does: all have the same folder."""
        return self.collectives is None or self.collectives.rank == 0
