"""What our engine does beside others: `python -m tests.bench.engine_speed [--peers FOLDER] [--quick] [--fidelity]`.

Each server alone on the machine, with the same model, under the same loads. Prints a table, and writes the figures by
server; with `--plot` other loads, and a figure of them. Figures, not verdicts.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.engine_speed import checkpoint, fidelity, limits, plot, runs, servers
from tests.bench.engine_speed.figures import figures, markdown, table
from tests.bench.engine_speed.prompts import Prompts
from tests.bench.processes import ROOT

_OURS = "cortex"  # a peer that does not work costs no other server its figures
_FIGURES, _SWEEP = ROOT / "build/bench-engine.json", ROOT / "build/bench-engine-plot.json"
_QUICK_SCALE = 1 / 8
_READ_S, _QUICK_READ_S = 10.0, 1.0


def main() -> int:
    """0; what our own server cannot do is an error."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    known = json.loads(options.read.read_text()) if options.read else _measured(options)
    print(f"\n{table(known)}")
    if options.markdown:
        print(f"\n{markdown(known)}")
    if options.plot:
        _write(options.plot, plot.svg(known))
    if not options.read:
        _write(options.json or (_SWEEP if options.plot else _FIGURES), json.dumps(known, indent=1) + "\n")
    return 0


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _measured(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    prompts = Prompts(checkpoint.tokenizer_file(), time.time_ns())
    method = runs.Method(prompts, options.repeat, options.retries, sweep=options.plot is not None)
    if options.quick:
        method = replace(method, repeat=1, retries=0, scale=_QUICK_SCALE)
    read_gb_s = limits.read_gb_s(_QUICK_READ_S if options.quick else _READ_S)
    print(f"memory is read at {read_gb_s:.1f} GB/s", flush=True)
    reference = fidelity.Reference.load() if options.fidelity else None
    known: dict[str, dict[str, Any]] = {}
    for spec in servers.specs(options.peers):
        if options.only and spec.name not in options.only:
            continue
        print(spec.title, flush=True)
        distances: dict[str, float] = {}
        limit = read_gb_s * 1e9 / limits.bytes_per_token(spec.weights)
        try:
            measured = runs.measure(spec, options.peers, method, fidelity.measuring(reference, distances))
            measured.add(distances)
            known[spec.name] = figures(measured, limit)
        except Exception as failure:
            if spec.name == _OURS:
                raise
            cause = failure.exceptions[0] if isinstance(failure, ExceptionGroup) else failure
            print(f"{spec.title}: left out: {type(cause).__name__}: {cause}", flush=True)
        for note in known.get(spec.name, {}).get("notes", ()):
            print(f"  note: {note}", flush=True)
    return known


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine_speed", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, metavar="FOLDER", help="measure the servers that are installed there, too"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of the servers in peers.toml, these")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each load; the median counts")
    parser.add_argument("--retries", type=int, default=2, help="of a run that others disturbed; 0 on a busy machine")
    parser.add_argument("--fidelity", action="store_true", help="also how far answers are from the float32 reference")
    parser.add_argument("--quick", action="store_true", help="an eighth of each length, once: shows that it works")
    parser.add_argument("--markdown", action="store_true", help="print the rows of docs/benchmarks.md, too")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="tokens a second by requests at once and by context, as an SVG"
    )
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: print what an earlier run wrote")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"instead of {_FIGURES} or, with --plot, {_SWEEP}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
