"""What `cortex-neuron fetch` tells while a download goes on, and what it says of each model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cortex_neuron.fetch import download
from cortex_neuron.fetch.report import Outcome, Report, State
from cortex_neuron.residency import sources
from cortex_neuron.residency.sources import SourceMissing


def test_the_bytes_on_the_disk_are_told_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of half a file, too; and when it is over the path is given."""
    told_twice = threading.Event()
    told: list[int] = []

    def fetch(source: str) -> Path:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "x.0123abcd.incomplete").write_bytes(b"x" * 2**20)
        assert told_twice.wait(20)
        return tmp_path / source

    def tell(stored: int) -> None:
        told.append(stored)
        if len(told) >= 2 and stored >= 2**20:
            told_twice.set()

    monkeypatch.setattr(sources, "fetch", fetch)
    monkeypatch.setattr(sources, "cache_folder", lambda _: tmp_path)
    assert download.run("name", tell, every_s=0.01) == tmp_path / "name"
    assert told == sorted(told)


def test_what_hinders_it_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is told of what is over at once."""

    def fetch(source: str) -> Path:
        raise SourceMissing(source)

    monkeypatch.setattr(sources, "fetch", fetch)
    with pytest.raises(SourceMissing, match="name"):
        download.run("name", lambda stored: pytest.fail(f"told {stored}"), every_s=20)


def test_only_partial_files_of_this_process_that_nobody_goes_on_with_are_removed(tmp_path: Path) -> None:
    """Another process may be at the same repository; and older libraries go on with theirs."""
    mine, older, other = (tmp_path / f"{name}.incomplete" for name in ("a.0123abcd", "a", "b.0123abcd"))
    other.touch()
    with mine.open("wb"), older.open("wb"):
        download.remove_partial_files()
    assert sorted(tmp_path.iterdir()) == sorted([older, other])


def test_words_of_several_lines_are_one_line() -> None:
    """A line is a model, whatever the library has to say."""
    failed = Outcome(model="m", source="org/m", local=False, state=State.FAILED, reason="no\n  route\n")
    assert failed.line() == "m: failed: no route"
    assert Report(models=[failed]).summary() == "1 of 1 models are not here"
    assert Report(models=[]).complete
