"""What is kept of models' tokenizers between two loads."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cortex_neuron.residency.text_folders import TextFolders


def _load(folders: TextFolders, model_id: str, keep: bool = True) -> bool:
    """Whether its files were there already."""
    with folders.lent(model_id, keep) as folder:
        kept = (folder / "tokenizer.json").exists()
        (folder / "tokenizer.json").touch()
        return kept


def test_a_model_that_is_loaded_again_finds_its_files(tmp_path: Path) -> None:
    """Also where its id has a slash."""
    folders = TextFolders(tmp_path / "text")
    assert [_load(folders, name) for name in ("org/a", "b", "org/a", "b")] == [False, False, True, True]
    assert {path.name for path in (tmp_path / "text").iterdir()} == {"org%2Fa", "b"}


def test_eight_are_kept_those_that_were_loaded_last(tmp_path: Path) -> None:
    """The runtime folder is memory."""
    folders = TextFolders(tmp_path)
    for name in ("0", "1", "2", "3", "4", "5", "6", "7", "0", "8"):
        _load(folders, name)
    assert {path.name for path in tmp_path.iterdir()} == set("02345678")
    assert not _load(folders, "1")


def test_none_goes_while_it_is_being_loaded(tmp_path: Path) -> None:
    """However many are, at once."""
    folders = TextFolders(tmp_path)
    with ExitStack() as loads:
        lent = [loads.enter_context(folders.lent(str(number), keep=True)) for number in range(10)]
        _load(folders, "late")
        assert all(folder.is_dir() for folder in lent)
    assert len(list(tmp_path.iterdir())) == 8


def test_what_need_not_be_kept_is_gone_with_the_load(tmp_path: Path) -> None:
    """And so is the folder of all, with the last of them."""
    folders = TextFolders(tmp_path / "text")
    _load(folders, "kept")
    assert [_load(folders, "a", keep=False) for _ in range(2)] == [False, False]
    assert [path.name for path in (tmp_path / "text").iterdir()] == ["kept"]
    assert _load(folders, "kept", keep=False)
    assert not (tmp_path / "text").exists()
