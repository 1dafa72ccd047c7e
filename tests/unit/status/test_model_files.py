"""What of a model the control machine brings, and to where."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from cortex_contracts.inventory.fleet import Model
from cortex_status.ansible_filters import cortex_model_files
from cortex_status.model_files import Bringing, FilesMissing, bringing

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = "/var/lib/neuron/huggingface/hub"
FILES = ("config.json", "model.safetensors")


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def write_cache(folder: Path, repository: str, *names: str, branch: str = "main") -> Path:
    """As the hub's library leaves it: what stands among the snapshots are links."""
    cache = folder / f"models--{repository.replace('/', '--')}"
    write(cache / "blobs", *names)
    write(cache / "refs", branch).joinpath(branch).write_text(COMMIT)
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return folder


def brought(source: str, folder: Path | None, hub: str = HUB) -> Bringing:
    return bringing(Model(id="m", source=source, vram_mb=1), folder, hub, "/var/lib/neuron")


@pytest.mark.parametrize("below", ["", "hub"])
def test_a_hub_s_cache_is_brought_as_the_snapshot_that_its_branch_is(tmp_path: Path, below: str) -> None:
    """Whether the folder is the cache or has it; what a neuron does not read stays behind."""
    write_cache(tmp_path / below, "org/name", *FILES, "pytorch_model.bin")
    found = brought("org/name", tmp_path)
    assert found.place == f"{HUB}/models--org--name/snapshots/{COMMIT}"
    assert found.beside == f"{HUB}/models--org--name/.coming-{COMMIT}"
    assert [file.name for file in found.files] == list(FILES)
    assert found.bytes == sum(map(len, FILES))
    assert found.reference is not None
    assert (found.reference.path, found.reference.commit) == (f"{HUB}/models--org--name/refs/main", COMMIT)


@pytest.mark.parametrize(
    ("source", "reference"), [("org/name@v2", "refs/v2"), (f"org/name@{COMMIT}", None)], ids=["tag", "commit"]
)
def test_the_revision_that_the_source_names_is_brought(tmp_path: Path, source: str, reference: str | None) -> None:
    """A commit needs no file that says which it is."""
    write_cache(tmp_path, "org/name", *FILES, branch="v2")
    found = brought(source, tmp_path)
    assert found.place.endswith(f"snapshots/{COMMIT}")
    assert (found.reference and found.reference.path.removeprefix(f"{HUB}/models--org--name/")) == reference
    with pytest.raises(FilesMissing, match="v3"):
        brought("org/name@v3", tmp_path)


@pytest.mark.parametrize("name", ["org/name", "name"])
def test_a_plain_folder_is_found_by_the_library_where_it_is_brought(tmp_path: Path, name: str) -> None:
    """It gets a commit that is made of its files; the hub's own library is the judge."""
    write(tmp_path / "here" / name, *FILES, "sub/more.json", ".git/config.json", "README.md")
    found = brought("org/name", tmp_path / "here", str(tmp_path / "hub"))
    assert [file.name for file in found.files] == [*FILES, "sub/more.json"]
    assert found.folders == ["sub"]
    assert found == brought("org/name", tmp_path / "here", str(tmp_path / "hub"))
    write(Path(found.place), *(file.name for file in found.files))
    assert found.reference is not None
    write(Path(found.reference.path).parent, "main").joinpath("main").write_text(found.reference.commit)
    there = huggingface_hub.snapshot_download("org/name", cache_dir=tmp_path / "hub", local_files_only=True)
    assert there == found.place


def test_a_local_source_comes_from_the_same_path_or_from_the_folder(tmp_path: Path) -> None:
    """A file alone, a folder with all that is in it; ~ is the neuron's home."""
    write(tmp_path / "srv/folder", "config.json", "vocab.bin")
    write(tmp_path, "a.gguf")
    folder = brought(f"{tmp_path}/srv/folder", None)
    assert (folder.is_file, folder.place, len(folder.files)) == (False, f"{tmp_path}/srv/folder", 2)
    file = brought("~/models/a.gguf", tmp_path)
    assert (file.is_file, file.place) == (True, "/var/lib/neuron/models/a.gguf")
    assert file.beside == "/var/lib/neuron/models/.coming-a.gguf"
    assert [each.path for each in file.files] == [f"{tmp_path}/a.gguf"]
    assert not file.of_cache


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("org/none", "has neither models--org--none, whole, nor org/none"),
        ("org/bare", "lacks config.json or has no .safetensors"),
        ("/srv/no/such.gguf", "there is no /srv/no/such.gguf and no "),
        ("./here", "is no whole path"),
    ],
)
def test_what_cannot_be_brought_says_why(tmp_path: Path, source: str, words: str) -> None:
    """Before a byte is copied."""
    write(tmp_path / "org/bare", "config.json")
    with pytest.raises(FilesMissing) as reason:
        brought(source, tmp_path)
    assert words in str(reason.value)


def test_a_repository_needs_a_folder() -> None:
    """This machine's own cache is not guessed at."""
    with pytest.raises(FilesMissing, match="-e folder=DIR"):
        brought("org/name", None)


def test_a_draft_model_s_files_are_brought_with_those_of_its_model(tmp_path: Path) -> None:
    """Each to its own place; what is missing of either is missing of the model."""
    write(tmp_path / "big", *FILES)
    entry = {"id": "m", "source": str(tmp_path / "big"), "vram_mb": 1}
    entry["speculative"] = {"method": "draft_model", "model": str(tmp_path / "small")}
    absent = cortex_model_files([entry], ["m"], "", HUB, "/var/lib/neuron")
    assert [problem.split(": ")[:2] for problem in absent["problems"]] == [["model m", f"source '{tmp_path}/small'"]]
    write(tmp_path / "small", *FILES)
    brought = cortex_model_files([entry], ["m"], "", HUB, "/var/lib/neuron")
    assert [each["place"] for each in brought["models"]] == [str(tmp_path / "big"), str(tmp_path / "small")]
    assert not brought["problems"]
