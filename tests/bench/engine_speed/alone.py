"""Our engine alone, in short: the `engine` part of `python -m tests.bench`."""

from __future__ import annotations

import time

from tests.bench.engine_speed import checkpoint, limits, runs, servers
from tests.bench.engine_speed.figures import ROWS, figures
from tests.bench.engine_speed.prompts import Prompts

_REPEAT = 3
_READ_S = 2.0


def measure() -> dict[str, float]:
    """Medians of three, whoever else is busy."""
    spec = next(each for each in servers.specs(peers=None) if each.name == "cortex")
    limit = limits.read_gb_s(_READ_S) * 1e9 / limits.bytes_per_token(spec.weights)
    method = runs.Method(Prompts(checkpoint.tokenizer_file(), time.time_ns()), _REPEAT, retries=0)
    known = figures(runs.measure(spec, None, method), limit)
    return {row.key: known[row.key] for row in ROWS if row.key in known}
