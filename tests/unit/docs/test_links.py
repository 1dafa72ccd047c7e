"""The pages lead to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(path: Path) -> None:
    """A page that moved takes its links along."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    """What nobody finds is not documentation."""
    readme = (ROOT / "README.md").read_text()
    listed = readme[readme.index("## Documentation") :]
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in listed] == []
