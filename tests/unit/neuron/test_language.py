"""A model's language is read beside the load of its weights, and not before its files are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_model import write_model

from cortex_neuron.protocol.frames import TEXT_IS_THERE, LoadProgress
from cortex_neuron.residency import language
from cortex_neuron.residency.language import Language


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were read."""
    folders: list[Path] = []
    read = language.text_model.read

    def noted(folder: Path) -> language.Files:
        folders.append(folder)
        return read(folder)

    monkeypatch.setattr(language.text_model, "read", noted)
    return folders


async def test_it_is_read_once_from_the_word_that_it_is_there(tmp_path: Path, reads: list[Path]) -> None:
    """Before that the folder may have the files of another load, or half of them."""
    folder = write_model(tmp_path / "m")
    async with Language(folder) as spoken:
        spoken.told(LoadProgress(phase="metadata", fraction=0.0))
        spoken.told(LoadProgress(phase="draft", fraction=0.1))
        assert spoken._reading is None
        for fraction in (0.1, 0.5):
            spoken.told(LoadProgress(phase=TEXT_IS_THERE, fraction=fraction))
        assert spoken._reading is not None
        text = await spoken.of(259, None)
    assert (text.vocab_size, text.decode([104, 105])) == (259, "hi")
    assert reads == [folder]


async def test_without_a_word_it_is_read_when_it_is_wanted(tmp_path: Path, reads: list[Path]) -> None:
    """The model is loaded by then."""
    folder = write_model(tmp_path / "m")
    async with Language(folder) as spoken:
        assert (await spoken.of(259, None)).vocab_size == 259
    assert reads == [folder]


async def test_what_is_read_in_vain_disturbs_nobody(tmp_path: Path) -> None:
    """Of a load that fails, what became of its text is not told, such as that it cannot be read."""

    async def load() -> None:
        async with Language(tmp_path / "nothing") as spoken:
            spoken.told(LoadProgress(phase=TEXT_IS_THERE, fraction=0.1))
            raise RuntimeError("the load")

    with pytest.raises(RuntimeError, match="the load"):
        await load()
