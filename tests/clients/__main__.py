"""`python -m tests.clients [--json] [SESSION …]`: scripted sessions of clients against a fleet of one, started here.

What is installed is in clients.toml, what each session does at the head of its program in sessions/. Exits with 1 where
one failed; a client that cannot be installed or run here is skipped, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tests/unit/neuron")]  # as pytest has them

from tests.clients import fleet, outside, report  # noqa: E402
from tests.clients.installation import Installation, Installed, installed_of  # noqa: E402
from tests.clients.report import Result  # noqa: E402
from tests.clients.session_run import run  # noqa: E402
from tests.clients.table import Session, sessions_of  # noqa: E402

BUILD = ROOT / "build/clients"
JSON = ROOT / "build/clients.json"


def main() -> int:
    """0 where every session passed or was skipped."""
    sessions = sessions_of()
    names = [session.name for session in sessions]
    parser = _parser(names)
    options = parser.parse_args()
    if unknown := set(options.sessions) - set(names):
        parser.error(f"no such session: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [session for session in sessions if not options.sessions or session.name in options.sessions]
    BUILD.mkdir(parents=True, exist_ok=True)
    results = asyncio.run(_results_of(chosen))
    if options.json:
        JSON.write_text(report.as_json(results))
    print(report.closing(results))
    return report.exit_code(results)


async def _results_of(sessions: Sequence[Session]) -> list[Result]:
    """In the table's order; all are installed before the fleet starts, so that nothing installs beside it."""
    results: list[Result] = []

    def tell(result: Result) -> None:
        results.append(result)
        print(report.progress(len(results), len(sessions), result), flush=True)

    ready, skipped = installed_of(sessions, _install)
    for each in skipped:
        tell(each)
    if not ready:
        return results
    model = await fleet.demo_model_with_tools(BUILD / "fleet")
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with outside.refusing() as proxy, fleet.running(Path(folder), model) as running:
            print(f"a fleet of one answers at {running.url}", flush=True)
            for session, installed in ready:
                tell(await run(session, installed, running, proxy))
    return results


def _install(session: Session) -> Installed:
    client = Installation(BUILD / session.client_name, session.client)
    if not client.is_made():
        print(f"installing {', '.join(session.client.packages)}", flush=True)
        client.make()
    return client.installed()


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("sessions", nargs="*", metavar="SESSION", help=f"of {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help=f"write the results to {JSON.relative_to(ROOT)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
