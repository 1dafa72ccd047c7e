"""What the gateway costs, beside other gateways: `python -m tests.bench.gateway_cost [--peers FOLDER] [--quick]`.

Each gateway alone on one core, before the same mock engine, under the same load; both are C (mock.c, load.c). Prints a
table, and writes the figures by gateway. Figures, not verdicts; but an answer that is wrong is an error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.bench.gateway_cost import gateways, timing
from tests.bench.gateway_cost.answers import check
from tests.bench.gateway_cost.figures import Measured, figures, table
from tests.bench.gateway_cost.gateways import Gateway, Mock, Spec
from tests.bench.gateway_cost.timing import Scenario, Timer
from tests.bench.processes import ROOT

_OURS = ("direct", "cortex")  # a peer that does not work costs no other gateway its figures
_QUICK_SCALE = 0.1
_SOAK_REQUESTS, _QUICK_SOAK_REQUESTS = 200_000, 1000
_SOAK_S = 30.0  # of one run; as many as it takes


def main() -> int:
    """0, or 1 where our own gateway answered wrongly."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    mock, load = gateways.compiled(ROOT / "build/bench")
    if options.quick:
        options.repeat, options.retries, options.soak = 1, 0, _QUICK_SOAK_REQUESTS
    wanted = {"direct", *options.only}
    known = [spec for spec in gateways.specs(options.peers) if not options.only or spec.name in wanted]
    chosen = [each for each in timing.scenarios() if not options.scenarios or each.name in options.scenarios]
    seen: dict[str, Measured] = {}
    for spec in known:
        with tempfile.TemporaryDirectory() as folder:
            timer = Timer(load, Path(folder), _QUICK_SCALE if options.quick else 1.0, options.retries)
            try:
                seen[spec.name] = measure(spec, mock, options, chosen, timer, Path(folder))
            except Exception as failure:
                if spec.name in _OURS:
                    raise
                print(f"{spec.title}: left out: {type(failure).__name__}: {failure}", flush=True)
    known_figures = {name: figures(each, seen["direct"]) for name, each in seen.items() if name != "direct"}
    print(f"\n{table(known_figures)}")
    described = {
        name: {**known, "checks": seen[name].checks, "version": seen[name].version}
        for name, known in known_figures.items()
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(described, indent=1) + "\n")
    return 0 if all(seen["cortex"].checks.values() if "cortex" in seen else ()) else 1


def measure(
    spec: Spec, mock: Path, options: argparse.Namespace, chosen: list[Scenario], timer: Timer, folder: Path
) -> Measured:
    """Start one gateway, check it, time it, stop it."""
    with gateways.mock(mock) as engine, gateways.running(spec, engine, options.peers, folder) as gateway:
        measured = Measured(spec.title, gateway.version, idle_rss_mb=gateway.rss_mb())
        measured.checks = {} if spec.direct else check(gateway, engine)
        wrong = [name for name, kept in measured.checks.items() if not kept]
        print(f"{spec.title} {gateway.version}: {'answers rightly' if not wrong else f'wrong: {wrong}'}", flush=True)
        for number in range(options.repeat):
            for scenario in chosen:
                if scenario.fits(gateway):
                    run = timer.run(gateway, engine, scenario)
                    measured.runs.setdefault(scenario.name, []).append(run)
                    print(
                        f"  {number} {scenario.name:26} {run.cpu_s:8.3f} CPU s {run.per_s:9.0f}/s"
                        f"  p50 {run.p50_ms:.2f} p99 {run.p99_ms:.2f} ms"
                        f"  faults {run.num_faults}  foreign {run.foreign_cores:.2f}",
                        flush=True,
                    )
        measured.rss_mb = gateway.rss_mb()
        if options.soak and spec.name == "cortex":
            measured.soaked_rss_mb = _soak(gateway, engine, options, timer.run)
    return measured


def _soak(
    gateway: Gateway, engine: Mock, options: argparse.Namespace, run: Callable[[Gateway, Mock, Scenario], timing.Run]
) -> float:
    """Memory after many more requests."""
    scenario = replace(timing.scenarios()[0], name="soak", warmup=0, duration=_SOAK_S)
    left = options.soak
    while left > 0:
        left -= run(gateway, engine, scenario).num_answers
    return gateway.rss_mb()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway_cost", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="measure the peers that are installed there, too")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of the gateways in peers.toml, these")
    parser.add_argument("--scenarios", nargs="+", default=[], metavar="NAME", help="of scenarios.toml, these")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each scenario; the median counts")
    parser.add_argument("--retries", type=int, default=2, help="of a run that others disturbed; 0 on a busy machine")
    parser.add_argument(
        "--soak", type=int, default=_SOAK_REQUESTS, metavar="N", help="requests before memory is read again"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of each time, once: shows that it works")
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench-gateway.json", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
