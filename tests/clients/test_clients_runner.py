"""`make clients` itself: what becomes of sessions that go well, are skipped, fail or never end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import dedent

import aiohttp
import psutil
import pytest
from neuron_process import until
from tests.clients import outside, report
from tests.clients.fleet import Fleet
from tests.clients.installation import Installation, Installed, NotInstalled, installed_of
from tests.clients.report import Outcome, Result
from tests.clients.session_run import run
from tests.clients.table import BadTable, Client, Session, sessions_of

CLIENT = Client(pip=("some-client==1.0",), sessions=("it",), env={"TELEMETRY": "off"})
FLEET = Fleet("http://127.0.0.1:9")
NPM = """#!/bin/sh
[ "$(basename "$3")" != broken ] || { printf "npm error code E404\\nnpm error A log is elsewhere\\n" >&2; exit 1; }
mkdir "$3/node_modules"
"""


async def result_of(folder: Path, program: str, timeout_s: float = 30.0) -> Result:
    """Of a session with this program, run by this Python."""
    path = folder / "it.py"
    path.write_text(dedent(program))
    async with outside.refusing() as proxy:
        return await run(
            Session("it", path, "some", CLIENT), Installed(folder, Path(sys.executable)), FLEET, proxy, timeout_s
        )


async def test_a_session_that_ends_well_has_passed_with_what_it_saw(tmp_path: Path) -> None:
    """And it knows the fleet, its own settings, and nothing of who runs it."""
    result = await result_of(
        tmp_path,
        """
        import os, sys
        from pathlib import Path
        import weather
        assert Path.home() == Path.cwd() and not list(Path.home().iterdir())
        assert "PYTEST_CURRENT_TEST" not in os.environ
        weather.seen(f"{weather.URL} {weather.TOLD} {os.environ['TELEMETRY']}")
        """,
    )
    assert (result.outcome, result.told) == (Outcome.PASSED, "http://127.0.0.1:9 told off")


async def test_a_session_may_be_called_as_its_client_is(tmp_path: Path) -> None:
    """litellm.py imports litellm, and not itself."""
    result = await result_of(tmp_path, "import it")
    assert "No module named 'it'" in result.told


async def test_a_skip_names_its_reason(tmp_path: Path) -> None:
    """In the progress and before the counts; it fails nothing."""
    result = await result_of(tmp_path, "from weather import skip\nskip('there is no such route')")
    assert (result.outcome, result.told) == (Outcome.SKIPPED, "there is no such route")
    assert "there is no such route" in report.progress(1, 1, result)
    assert report.closing([result]).splitlines() == [
        "skipped it: there is no such route",
        "clients: 1 sessions, 0 passed, 1 skipped",
    ]
    assert report.exit_code([result]) == 0


async def test_a_session_that_fails_is_counted_and_shown(tmp_path: Path) -> None:
    """With what led to it, and `make clients` fails."""
    result = await result_of(tmp_path, "print('almost')\nassert 1 == 2, 'not at all'")
    assert result.outcome is Outcome.FAILED
    assert "almost" in result.told
    assert "not at all" in result.told
    well = Result("other", Outcome.PASSED, "fine")
    assert report.closing([well, result]) == "clients: 2 sessions, 1 passed, 0 skipped, 1 failed"
    assert report.exit_code([well, result]) == 1


@pytest.mark.parametrize("code", [0, 77])
async def test_a_session_that_does_not_say_what_was_has_failed(tmp_path: Path, code: int) -> None:
    """A skip without a reason, and a success that nobody saw."""
    assert (await result_of(tmp_path, f"raise SystemExit({code})")).outcome is Outcome.FAILED


async def test_a_session_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """In its time, as a failure."""
    program = """
        import subprocess, sys, time
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        open(sys.argv[0] + ".pid", "w").write(str(left.pid))
        time.sleep(3600)
    """
    result = await result_of(tmp_path, program, timeout_s=3.0)
    assert (result.outcome, result.told) == (Outcome.FAILED, "not done in 3 s")
    left = int((tmp_path / "it.py.pid").read_text())

    async def is_gone() -> bool:
        return not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE

    await until(is_gone)


async def test_whom_a_client_wanted_to_reach_is_told_and_not_reached(tmp_path: Path) -> None:
    """A proxy that refuses, for all but this machine."""
    program = """
        import urllib.error, urllib.request
        for url in ("https://telemetry.invalid/x", "http://updates.invalid/y", "http://updates.invalid/z"):
            try:
                urllib.request.urlopen(url)
            except urllib.error.URLError as refused:
                assert "403" in str(refused), refused
            else:
                raise AssertionError(url)
        print("refused")
    """
    result = await result_of(tmp_path, program)
    assert (result.outcome, result.outside) == (Outcome.PASSED, ("telemetry.invalid", "updates.invalid"))
    assert report.progress(1, 1, result).endswith("(wanted to reach telemetry.invalid, updates.invalid)")


async def test_what_one_client_wanted_is_not_told_of_the_next() -> None:
    """The list is each session's own."""
    async with outside.refusing() as proxy, aiohttp.ClientSession() as http:
        async with http.get("http://somewhere.invalid/", proxy=proxy.url) as refusal:
            assert refusal.status == 403
        assert proxy.taken() == ("somewhere.invalid",)
        assert proxy.taken() == ()


def test_a_client_that_cannot_be_installed_is_a_skip_with_the_reason(tmp_path: Path) -> None:
    """It is tried once for all of its sessions, and the others go on."""
    clients = {"one": "absent", "two": "absent", "three": "there"}
    sessions = [Session(name, tmp_path, client, CLIENT) for name, client in clients.items()]
    tried = []

    def installing(session: Session) -> Installed:
        tried.append(session.client_name)
        if session.client_name == "absent":
            raise NotInstalled("pip says: no matching distribution")
        return Installed(tmp_path, tmp_path)

    ready, skips = installed_of(sessions, installing)
    assert [session.name for session, _ in ready] == ["three"]
    told = "some-client==1.0 cannot be installed: pip says: no matching distribution"
    assert skips == [Result(name, Outcome.SKIPPED, told) for name in ("one", "two")]
    assert tried == ["absent", "there"]


def test_half_an_installation_is_none_and_a_new_version_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is made from nothing, so that what lies there is what the table says."""
    (tmp_path / "npm").write_text(NPM)
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = tmp_path / "it"
    folder.mkdir()
    (folder / "half").touch()
    one, two = (Installation(folder, Client(npm=(f"a=={version}",), sessions=("it",))) for version in ("1.0", "2.0"))
    assert not one.is_made()
    one.make()
    assert one.is_made()
    assert not (folder / "half").exists()
    assert one.installed().programs == (folder / "bin", folder / "node_modules/.bin")
    assert not two.is_made()
    two.make()
    assert not one.is_made()


def test_what_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the installer's words, and where there is no installer, that."""
    client = Client(npm=("a==1.0",), sessions=("it",))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "npm").write_text(NPM)
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(NotInstalled, match="npm says: npm error code E404"):
        Installation(tmp_path / "broken", client).make()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(NotInstalled, match="there is no npm here"):
        Installation(tmp_path / "it", client).make()


def test_the_table_and_the_sessions_agree(tmp_path: Path) -> None:
    """A session that nobody runs, or one without a program, is found; and each says at its head what it does."""
    for session in sessions_of():
        head = session.program.read_text().splitlines()[0]
        assert head.startswith(('"""', "// ")), session.name
        assert head.count(":") == 1, session.name
    table = tmp_path / "clients.toml"
    table.write_text('[some]\npip = ["some-client==1.0"]\nsessions = ["one"]\n')
    (tmp_path / "two.py").touch()
    with pytest.raises(BadTable, match="one, two"):
        sessions_of(table, tmp_path)


@pytest.mark.parametrize("package", ["some-client", "some-client>=1.0", "http://127.0.0.1/some-client==1.0"])
def test_what_is_not_pinned_by_name_and_version_is_refused(tmp_path: Path, package: str) -> None:
    """Another day's release is another client."""
    table = tmp_path / "clients.toml"
    table.write_text(f"[some]\npip = {json.dumps([package])}\nsessions = []\n")
    with pytest.raises(ValueError, match=r"some\.pip\.0"):
        sessions_of(table, tmp_path)


def test_the_json_holds_all_that_is_known() -> None:
    """For programs."""
    result = Result("it", Outcome.SKIPPED, "why", 1.5, ("somewhere.invalid",))
    assert json.loads(report.as_json([result])) == [
        {"session": "it", "outcome": "skipped", "told": "why", "seconds": 1.5, "outside": ["somewhere.invalid"]}
    ]
