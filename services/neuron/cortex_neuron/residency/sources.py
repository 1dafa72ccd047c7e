"""Where a model's files are: a local folder, a GGUF file, or a hub repository.

Owns: telling them apart, and fetching a repository: what is on disk already first, the network after (case L3); and the
token that the hub is shown. Does not own: retries (loading.py). Called by: residency, from a thread; fetch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cortex_contracts.inventory.sources import WANTED, names_a_path

_CREDENTIAL = "hub-token"  # a file of $CREDENTIALS_DIRECTORY, by LoadCredential of the unit


class SourceMissing(Exception):
    """There is no such model, and trying again does not help."""


class SourceUnreachable(Exception):
    """It cannot be fetched now; it may be later."""


def is_local(source: str) -> bool:
    """True for a path; a name/name that is not a path is a hub repository."""
    # Not Path.exists: it raises where the user may not look, as in root's home by `sudo -u neuron`.
    return names_a_path(source) or os.path.exists(source)


def find(source: str) -> Path | None:
    """The files, if they are on this host; None for a repository that is not. Raises SourceMissing."""
    if not is_local(source):
        snapshot = _snapshot(source, local_files_only=True)
        # A download that was broken off looks like this, too.
        return snapshot if snapshot is not None and _lacking(snapshot) is None else None
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():
        return path
    raise SourceMissing(f"source {source!r}: no such file or folder, and not the name of a hub repository")


def fetch(source: str) -> Path:
    """The files of a repository, from the network. Raises SourceMissing or SourceUnreachable."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        path = _snapshot(source, local_files_only=False)
    except RepositoryNotFoundError as failure:
        raise SourceMissing(f"source {source!r}: the hub has no such repository, or hides it: {failure}") from failure
    except (HfHubHTTPError, OSError) as failure:
        raise SourceUnreachable(f"source {source!r} cannot be fetched: {failure}") from failure
    if path is None:
        raise SourceUnreachable(f"source {source!r} cannot be fetched: the hub does not answer")
    if lacking := _lacking(path):
        raise SourceMissing(f"source {source!r}: the repository lacks {lacking}")
    return path


def absence(source: str) -> str:
    """What of a repository that `find` has not found is not on this host, in words."""
    snapshot = _snapshot(source, local_files_only=True)
    lacking = _lacking(snapshot) if snapshot is not None else None
    return f"{lacking} is not on this host" if lacking else "it is not on this host, or not whole"


def cache_folder(source: str) -> Path:
    """Where the library keeps a repository; it need not be there yet."""
    from huggingface_hub import constants  # read from the environment when this is first imported, not before
    from huggingface_hub.file_download import repo_folder_name

    repository = source.partition("@")[0]
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))


def _snapshot(source: str, *, local_files_only: bool) -> Path | None:
    import huggingface_hub  # an HTTP client with it, which a neuron of local files starts without
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            local_files_only=local_files_only,
            allow_patterns=list(WANTED),
            token=None if local_files_only else _token(),
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def _token() -> str | None:
    """The unit's credential. Without one it is the library that looks: HF_TOKEN, or what a login has left.

    Raises OSError. Read each time and kept nowhere: what stands in the environment reaches the engines as well.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        return (Path(folder) / _CREDENTIAL).read_text(encoding="ascii").strip() if folder else None
    except FileNotFoundError:
        return None


def _lacking(folder: Path) -> str | None:
    """The first file that a model needs and the folder does not have."""
    index = folder / "model.safetensors.index.json"
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else []
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return index.name
    wanted = ["config.json", *(shards or ["model.safetensors"])]
    return next((name for name in wanted if not (folder / name).exists()), None)
