"""Measure this machine: `python -m tests.bench [PART …] [--json FILE]`. Figures, not verdicts.

What the gateway costs, and the engine beside others, have commands of their own: `python -m tests.bench.gateway_cost`,
`python -m tests.bench.engine_speed`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import cycles, failover, operating_cost, polling_cost, routing_cost, swap
from tests.bench.engine_speed import alone


def _tensor_parallel() -> dict[str, float]:
    from tests.bench import tensor_parallel  # it imports torch

    return tensor_parallel.measure()


def _speculation() -> dict[str, float]:
    from tests.bench import speculation  # it imports torch

    return speculation.measure()


def _scheduler() -> dict[str, float]:
    from tests.bench import scheduler_cost  # it imports torch

    return scheduler_cost.measure()


def _gpu() -> dict[str, float]:
    from tests.bench import gpu_speed  # it imports torch

    return gpu_speed.measure()


_NAMED_ONLY = ("cycles", "gpu")  # minutes, and a GPU
_PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "cycles": cycles.measure,
    "engine": alone.measure,
    "failover": failover.measure,
    "gpu": _gpu,
    "operating": operating_cost.measure,
    "polling": polling_cost.measure,
    "routing": routing_cost.measure,
    "scheduler": _scheduler,
    "speculation": _speculation,
    "swap": swap.measure,
    "tensor_parallel": _tensor_parallel,
}


def main() -> int:
    """Print the figures of each part; write them where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", help=f"of {', '.join(_PARTS)}; all but {' and '.join(_NAMED_ONLY)} where none is named"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(_PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    figures: dict[str, dict[str, float]] = {}
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}", flush=True)
    for part in arguments.parts or [part for part in _PARTS if part not in _NAMED_ONLY]:
        figures[part] = _PARTS[part]()
        print(f"\n{part}")
        for name, value in figures[part].items():
            print(f"  {name:30} {value:10.3f}", flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
