"""Where a model's files are found, and that they are judged before any process starts."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron.fetch import command
from cortex_neuron.residency import architecture_check, architectures, sources
from cortex_neuron.residency.architecture_check import FilesInvalid
from cortex_neuron.residency.harness import LoadFailed
from cortex_neuron.residency.loading import Loader
from cortex_neuron.residency.sources import SourceMissing, SourceUnreachable


def _folder(path: Path, model_type: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _gguf(path: Path, architecture: str, *, first: bool = True) -> Path:
    """A GGUF header as the specification lays it out, with other metadata before the key unless it is `first`."""
    key = _string("general.architecture") + struct.pack("<I", 8) + _string(architecture)
    others = [
        _string("a.number") + struct.pack("<If", 6, 1.5),
        _string("a.flag") + struct.pack("<IB", 7, 1),
        _string("some.words") + struct.pack("<IIQ", 9, 8, 2) + _string("x") + _string("y"),
        _string("some.numbers") + struct.pack("<IIQ", 9, 4, 3) + struct.pack("<3I", 1, 2, 3),
    ]
    pairs = [key, *others] if first else [*others, key]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
    return path


def test_a_supported_folder_and_file_pass(tmp_path: Path) -> None:
    """Both kinds of source, wherever the key stands in the header."""
    architecture_check.check(_folder(tmp_path / "m", "llama"))
    architecture_check.check(_gguf(tmp_path / "a.gguf", "llama"))
    architecture_check.check(_gguf(tmp_path / "b.gguf", "qwen3", first=False))


def test_an_unsupported_architecture_is_named_with_the_set(tmp_path: Path) -> None:
    """The operator learns what there is instead (case T11)."""
    for source in (_folder(tmp_path / "m", "t5"), _gguf(tmp_path / "a.gguf", "t5")):
        with pytest.raises(UnsupportedArchitecture, match=r"'t5' is not supported.*'llama'"):
            architecture_check.check(source)
    assert "t5" not in architectures.MODEL_TYPES


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"JUNK" * 10, b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), b"GGUF" + bytes(20)]
)
def test_a_file_that_is_no_gguf_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    """Whatever its bytes are, and without reading a great many of them."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(FilesInvalid, match=r"model\.gguf"):
        architecture_check.check(file)


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_a_config_that_says_nothing_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    """Also a folder without config.json."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FilesInvalid, match=r"config\.json"):
        architecture_check.check(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FilesInvalid, match=r"config\.json"):
        architecture_check.check(tmp_path)


def test_a_local_source_is_a_path_and_anything_else_a_repository(tmp_path: Path) -> None:
    """A path that does not exist is an error, not a name to be looked up."""
    assert sources.find(str(_folder(tmp_path / "m", "llama"))) == tmp_path / "m"
    with pytest.raises(SourceMissing, match="no such file"):
        sources.find(str(tmp_path / "missing"))
    assert not sources.is_local("org/name")
    assert not sources.is_local("org/name@v1.0")
    assert sources.is_local("/srv/models/name")
    assert sources.is_local("./name")


def test_where_nobody_may_look_there_is_no_folder_of_a_repository_s_name() -> None:
    """The daemon's user may be in a folder that is not its own; a name too long for a path stands for such errors."""
    assert not sources.is_local(f"org/{'n' * 5000}")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in the hub library's layout, and a hub that nobody answers for."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def _snapshot(hub_cache: Path) -> Path:
    """The hub library's folder of org/name, in which a download has begun."""
    revision = "0" * 40
    repository = hub_cache / "models--org--name"
    snapshot = _folder(repository / "snapshots" / revision, "llama")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    return snapshot


def test_a_snapshot_on_disk_is_used_without_network(hub_cache: Path) -> None:
    """A host without network at boot still has its models (case L3)."""
    snapshot = _snapshot(hub_cache)
    (snapshot / "model.safetensors").touch()
    assert sources.find("org/name") == snapshot


def test_a_download_that_was_broken_off_is_not_taken_for_the_model(hub_cache: Path) -> None:
    """The library would give the folder as it is: it must be fetched on, and not fail for what it lacks (case L3)."""
    snapshot = _snapshot(hub_cache)
    assert sources.find("org/name") is None
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1-of-2.safetensors").touch()
    assert sources.find("org/name") is None
    (snapshot / "model-2-of-2.safetensors").touch()
    assert sources.find("org/name") == snapshot


def test_a_repository_without_weights_is_no_model(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched whole and still lacking: trying again would not help, and the error says what is not there."""
    snapshot = _snapshot(hub_cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    with pytest.raises(SourceMissing, match=r"org/name.*lacks model\.safetensors"):
        sources.fetch("org/name")


def test_a_repository_that_is_not_on_disk_must_be_fetched(hub_cache: Path) -> None:
    """None, so that the caller goes to state pending, not failed."""
    assert sources.find("org/name") is None


def test_a_hub_that_does_not_answer_is_worth_another_try(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network faults are not the model's."""

    def refuse(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(SourceUnreachable, match="org/name"):
        sources.fetch("org/name")


@pytest.mark.parametrize(("credential", "shown"), [("canary\n", "canary"), (None, None)])
def test_the_hub_is_shown_the_credential_and_the_environment_is_not(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credential: str | None, shown: str | None
) -> None:
    """Engines of vLLM get the daemon's environment. Without the file the library looks for itself; on the disk nobody
    need show anything."""
    asked: list[tuple[bool, str | None]] = []

    def answer(*_: object, local_files_only: bool, token: str | None, **__: object) -> str:
        asked.append((local_files_only, token))
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if credential is not None:
        (tmp_path / "hub-token").write_text(credential)
    before = dict(os.environ)
    assert sources.find("org/name") is None
    with pytest.raises(SourceUnreachable):
        sources.fetch("org/name")
    assert asked == [(True, None), (False, shown)]
    assert dict(os.environ) == before


# ---- a model that another drafts for


def _drafted(source: Path, drafter: str) -> Model:
    drafts = {"method": "draft_model", "model": drafter}
    return Model.model_validate({"id": "m", "source": str(source), "vram_mb": 1, "speculative": drafts})


async def test_a_draft_model_is_judged_before_any_process_starts(hub_cache: Path, tmp_path: Path) -> None:
    """One that is on a hub has the model wait for it; one that is nowhere, or of a strange kind, is the load's failure
    (case T11)."""
    loader = Loader(NeuronSection(name="here"), rank_module="none")
    big = _folder(tmp_path / "big", "llama")
    assert await loader.check(_drafted(big, str(_folder(tmp_path / "small", "llama")))) == big
    assert await loader.check(_drafted(big, "org/small")) is None
    with pytest.raises(LoadFailed, match="no such file or folder") as raised:
        await loader.check(_drafted(big, "/nowhere/small"))
    assert raised.value.failure.kind == "source_invalid"
    with pytest.raises(LoadFailed, match="'t5' is not supported") as raised:
        await loader.check(_drafted(big, str(_folder(tmp_path / "strange", "t5"))))
    assert raised.value.failure.kind == "unsupported_architecture"


def test_files_of_a_model_are_here_when_its_draft_model_s_are(hub_cache: Path, tmp_path: Path) -> None:
    """`fetch` tells of the one that is lacking."""
    big = _folder(tmp_path / "big", "llama")
    here = command._outcome(_drafted(big, str(_folder(tmp_path / "small", "llama"))), dry_run=True, quiet=True)
    assert (here.state, here.path) == ("present", str(big))
    lacking = command._outcome(_drafted(big, "org/small"), dry_run=True, quiet=True)
    assert (lacking.state, lacking.source, lacking.path) == ("missing", "org/small", None)
