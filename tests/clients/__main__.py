"""`python -m tests.clients [--json] [SESSION …]`: scripted sessions of clients against a fleet of one, started here.

What is installed is in clients.toml, what each session does at the head of its program in sessions/. Exits with 1 where
one failed; a client that cannot be installed or run here is skipped, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tests/unit/neuron")]  # as pytest has them

from tests.clients import fleet, outside, report  # noqa: E402
from tests.clients.installation import Installed, NotInstalled, install  # noqa: E402
from tests.clients.session_run import Outcome, Result, run  # noqa: E402
from tests.clients.table import Session, sessions_of  # noqa: E402

BUILD = ROOT / "build/clients"
JSON = ROOT / "build/clients.json"

Installing = Callable[[Session], Installed]


def main() -> int:
    """0 where every session passed or was skipped."""
    sessions = sessions_of()
    names = [session.name for session in sessions]
    parser = _parser(names)
    options = parser.parse_args()
    if unknown := set(options.sessions) - set(names):
        parser.error(f"no such session: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [session for session in sessions if not options.sessions or session.name in options.sessions]
    ready, results = installed_of(chosen, _install)
    if ready:
        results += asyncio.run(_with_a_fleet(ready, len(chosen)))
    if options.json:
        JSON.write_text(report.as_json(results))
    print(report.closing(results))
    return report.exit_code(results)


def installed_of(
    sessions: Sequence[Session], installing: Installing
) -> tuple[list[tuple[Session, Installed]], list[Result]]:
    """Sessions whose clients are there, one after another; and the skips of the others."""
    ready, skipped = [], []
    for session in sessions:
        try:
            ready.append((session, installing(session)))
        except NotInstalled as reason:
            told = f"{', '.join(session.client.packages)} cannot be installed: {reason}"
            skipped.append(Result(session.name, Outcome.SKIPPED, told))
    return ready, skipped


async def _with_a_fleet(ready: Sequence[tuple[Session, Installed]], count: int) -> list[Result]:
    results = []
    model = await fleet.demo_model_with_tools(BUILD / "fleet")
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with outside.refusing() as proxy, fleet.running(Path(folder), model) as running:
            print(f"a fleet of one answers at {running.url}", flush=True)
            for session, installed in ready:
                results.append(await run(session, installed, running, proxy))
                print(report.progress(len(results), count, results[-1]), flush=True)
    return results


def _install(session: Session) -> Installed:
    if not (BUILD / session.client_name).exists():
        print(f"installing {', '.join(session.client.packages)}", flush=True)
    return install(session.client_name, session.client, BUILD)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("sessions", nargs="*", metavar="SESSION", help=f"of {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help=f"write the results to {JSON.relative_to(ROOT)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
