"""What a neuron's engines are forked from."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.fleet import Model
from cortex_neuron.daemon import PRELOAD, PRELOAD_MODULES, preload_for


@pytest.mark.parametrize(
    ("kind", "entry", "expected"),
    [
        ("cpu", {}, PRELOAD),
        ("cuda", {}, PRELOAD_MODULES),
        ("cpu", {"tensor_parallel": 2}, PRELOAD_MODULES),
        ("cpu", {"task": "embed"}, PRELOAD_MODULES),
    ],
)
def test_transformers_modules_are_there_where_they_compute(kind: str, entry: dict[str, Any], expected: str) -> None:
    """A host of GPUs, several ranks, and models that embed have them before a load; native kernels do without."""
    assert preload_for(kind, [Model(id="m", source="/m", vram_mb=100, **entry)]) == expected
    assert preload_for("cpu", []) == PRELOAD
