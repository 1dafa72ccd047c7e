"""docs/clients.md against the table that `make clients` goes by."""

from __future__ import annotations

import re

from pages import ROOT, page, rows
from tests.clients.table import SESSIONS, TABLE, Session, sessions_of

TEXT = page("clients.md")


def _of(session: Session) -> tuple[str, set[str], str]:
    """Its row: what is installed, and which model it talks to."""
    installer = "pip" if session.client.pip else "npm"
    talks_to_told = "TOLD" in session.program.read_text()
    return installer, set(session.client.packages), "told" if talks_to_told else "demo"


def test_every_session_has_its_row_in_the_tables_order() -> None:
    """With the version that is installed, by which installer, and its model."""
    sessions = sessions_of()
    told = rows(TEXT, "What is tried")
    assert [name.strip("`") for name, _, _ in told] == [session.name for session in sessions]
    for session, (_, client, model) in zip(sessions, told, strict=True):
        installer, packages, asked = _of(session)
        assert set(re.findall(r"`([^`]*==[^`]*)`", client)) <= packages, session.name
        assert (f"({installer})" in client, model) == (True, asked), session.name


def test_every_version_is_told() -> None:
    """Of clients with several packages, too."""
    told = set(re.findall(r"`([^`]*==[^`]*)`", TEXT))
    assert told == {package for session in sessions_of() for package in session.client.packages}


def test_the_settings_of_codex_and_llm_are_those_of_their_sessions() -> None:
    """What is copied from the page is what was tried."""
    for name, section in (("codex", "Codex"), ("llm", "llm")):
        (part,) = [part for part in TEXT.split("\n## ") if part.startswith(section + "\n")]
        lines = [line.strip() for line in part.splitlines() if line.startswith("    ")]
        keys = [re.split(r" = |: ", line.removeprefix("- "))[0] for line in lines]
        program = (SESSIONS / f"{name}.py").read_text()
        assert [key for key in keys if key not in program] == [], name


def test_the_page_leads_to_the_table() -> None:
    """Where versions are raised."""
    assert f"(../{TABLE.relative_to(ROOT)})" in TEXT
