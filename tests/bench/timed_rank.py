"""The real rank, which counts the time it spends in collectives and in steps: rank 0 leaves both beside its socket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cortex_neuron.engine import communicator, rank, runner

_spent = {"collectives_s": 0.0, "steps_s": 0.0, "collectives": 0, "steps": 0}


def _timed(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            _spent[f"{name}_s"] += time.perf_counter() - began
            _spent[name] += 1

    return timed


def main(address: str, own_rank: int, world_size: int) -> None:
    """Like cortex_neuron.engine.rank.main."""
    ranks: Any = communicator.Communicator
    ranks.all_reduce, ranks.gather = _timed(ranks.all_reduce, "collectives"), _timed(ranks.gather, "collectives")
    runs: Any = runner.Runner
    runs.run = _timed(runs.run, "steps")
    rank.main(address, own_rank, world_size)
    if own_rank == 0:
        Path(f"{address.removeprefix('ipc://')}.spent").write_text(json.dumps(_spent))
