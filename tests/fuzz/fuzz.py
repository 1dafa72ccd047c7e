"""Fuzzing with atheris (coverage-guided): `python tests/fuzz/fuzz.py [--seconds N] [TARGET …]`, all in turn.

Owns: one process a target, the share of the time of each, and where findings go: build/fuzz/TARGET, beside what the
fuzzer has learnt. Does not own: the promises (fuzz_targets.py) or raw HTTP (raw_http.py), which is a target of its own
here. Exits with 1 where something was found; what was found becomes a seed in corpus/ once it is mended.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = HERE.parents[1] / "build/fuzz"
RAW_HTTP = "raw_http"


def main() -> int:
    """Every target that is asked for, one after the other."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="all where none is named")
    parser.add_argument("--seconds", type=int, default=600, help="for all of them together; default: %(default)s")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _fuzz(arguments.targets[0], arguments.seconds)
        return 0
    targets = arguments.targets or [path.name for path in sorted((HERE / "corpus").iterdir())] + [RAW_HTTP]
    share = max(1, arguments.seconds // len(targets))
    broken = [name for name in targets if not _keeps_its_promises(name, share)]
    print(f"{len(targets)} targets, {share} s each; broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def _keeps_its_promises(name: str, seconds: int) -> bool:
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "fuzz.py"), "--one", "--seconds", str(seconds), name]
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=log, cwd=folder, check=False).returncode
    executed = re.search(r"executed_units: *(\d+)", (folder / "log").read_text(errors="replace"))
    inputs, verdict = executed[1] if executed else "?", "ok" if code == 0 else f"BROKEN: see {folder}"
    print(f"{name:20} {inputs:>10} inputs {time.monotonic() - began:5.0f} s  {verdict}", flush=True)
    return code == 0


def _fuzz(name: str, seconds: int) -> None:
    if name == RAW_HTTP:
        import raw_http

        raw_http.fuzz(seconds)
        return
    import atheris

    with atheris.instrument_imports(include=["cortex_contracts", "cortex_dialects", "cortex_gateway"]):
        import fuzz_targets
    folder = FOUND / name
    learnt = folder / "corpus"
    learnt.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
    folders = [str(learnt), str(HERE / "corpus" / name)]
    options = [*limits, "-print_final_stats=1", f"-artifact_prefix={folder}/", *folders]
    atheris.Setup([name, *options], fuzz_targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
