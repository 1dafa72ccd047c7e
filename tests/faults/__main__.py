"""`python -m tests.faults [--write] [words …]`: the fault matrix, with the worst times; words choose cases by name."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tests/faults")]

import matrix  # noqa: E402  the folders are those of pytest's pythonpath
from tiny_model import write_tiny_model  # noqa: E402

PAGE = ROOT / "docs/protocol.md"


def main() -> int:
    """0 where every case was survived."""
    options = _parser().parse_args()
    chosen = [case for case in matrix.cases() if all(word in str(case) for word in options.words)]
    began, done = time.monotonic(), 0

    def tell(result: matrix.Result) -> None:
        nonlocal done
        done += 1
        what = "; ".join(result.problems) or result.told
        print(f"{done:4}/{len(chosen)} {time.monotonic() - began:4.0f} s  {result.case}: {what}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder))
        results = asyncio.run(matrix.survive(chosen, model, options.at_once, tell))
    if options.write:
        PAGE.write_text(matrix.written_into(PAGE.read_text(), results))
    survived = [each for each in results if not each.problems]
    for words, value in matrix.worst(results):
        print(f"{words}: {value}")
    print(f"faults: {len(results)} cases, {len(survived)} survived")
    return 0 if len(survived) == len(chosen) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="only cases whose names hold all of these, such as tp2 step rank1")
    parser.add_argument("--write", action="store_true", help="write the table into docs/protocol.md")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="daemons beside each other")
    return parser


if __name__ == "__main__":
    sys.exit(main())
