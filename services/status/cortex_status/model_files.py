"""Which files of a model the control machine has, and where its neuron's daemon finds them without a network.

Owns: the layouts that are understood (a hub's cache, a plain folder, a local source), and the places on the host. Does
not own: copying (roles/neuron/tasks/bring.yml), or whether a host has them. Called by: the filters of ansible/plugins.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from cortex_contracts.inventory.fleet import Model
from cortex_contracts.inventory.sources import is_wanted, names_a_path

_COMMIT = re.compile(r"[0-9a-f]{40}")


class FilesMissing(Exception):
    """The control machine has none of the model; the message is for the operator."""


class File(BaseModel):
    """One file: where it is here, and its name below the model's folder."""

    path: str
    name: str
    mb: int


class Reference(BaseModel):
    """A file of a hub's cache that says which snapshot a branch or tag is."""

    path: str
    commit: str


class Bringing(BaseModel):
    """What is copied to `beside` first, and then renamed to `place`. `of_cache` is the neuron's own folder."""

    model: str
    place: str
    beside: str
    is_file: bool
    of_cache: bool
    files: list[File]
    folders: list[str]
    bytes: int
    reference: Reference | None


def bringing(model: Model, folder: Path | None, hub: str, home: str) -> Bringing:
    """The model's files of the folder, for a host whose cache is `hub` and whose neuron lives in `home`.

    Raises FilesMissing.
    """
    if names_a_path(model.source):
        return _local(model, folder, home)
    return _repository(model, folder, hub)


def _local(model: Model, folder: Path | None, home: str) -> Bringing:
    place = PurePosixPath(re.sub(r"^~(?=/)", home, model.source))
    if not place.is_absolute():
        raise FilesMissing(f"source {model.source!r} is no whole path, so it cannot be brought")
    choices = [Path(place), *([folder / place.name] if folder else [])]
    found = next((path for path in choices if path.exists()), None)
    if found is None:
        raise FilesMissing(f"source {model.source!r}: there is no {' and no '.join(map(str, choices))} on this machine")
    names = [found.name] if found.is_file() else _names(found)
    parent = found.parent if found.is_file() else found
    return _made(model, place, parent, names, is_file=found.is_file(), of_cache=False, reference=None)


def _repository(model: Model, folder: Path | None, hub: str) -> Bringing:
    if folder is None:
        raise FilesMissing(f"source {model.source!r} is a repository: say which folder has it, -e folder=DIR")
    repository, _, revision = model.source.partition("@")
    found, commit = _snapshot(folder, repository, revision)
    names = [name for name in _names(found) if is_wanted(name)]
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise FilesMissing(f"source {model.source!r}: {found} lacks config.json or has no .safetensors")
    root = PurePosixPath(hub, _cached(repository))
    named = None if revision == commit else Reference(path=str(root / "refs" / (revision or "main")), commit=commit)
    return _made(model, root / "snapshots" / commit, found, names, is_file=False, of_cache=True, reference=named)


def _snapshot(folder: Path, repository: str, revision: str) -> tuple[Path, str]:
    """Its folder and commit. A plain folder has none, so its files make one up: the same files, the same."""
    for cache in (folder / _cached(repository), folder / "hub" / _cached(repository)):
        reference = cache / "refs" / (revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else revision
        if commit and (cache / "snapshots" / commit).is_dir():
            return cache / "snapshots" / commit, commit
    for plain in (folder / repository, folder / repository.rpartition("/")[2]):
        if plain.is_dir():
            return plain, revision if _COMMIT.fullmatch(revision) else _made_up_commit(plain)
    wanted = f"{repository}@{revision}" if revision else repository
    raise FilesMissing(f"source {wanted!r}: {folder} has neither {_cached(repository)}, whole, nor {repository}")


def _made(
    model: Model, place: PurePosixPath, parent: Path, names: list[str], *,
    is_file: bool, of_cache: bool, reference: Reference | None,
) -> Bringing:  # fmt: skip
    sizes = {name: (parent / name).stat().st_size for name in names}
    # In the cache a level higher: what is among its snapshots counts as one.
    beside = (place.parent.parent if of_cache else place.parent) / f".coming-{place.name}"
    return Bringing(
        model=model.id, place=str(place), beside=str(beside), is_file=is_file, of_cache=of_cache,
        files=[File(path=str(parent / name), name=name, mb=sizes[name] // 2**20) for name in names],
        folders=sorted({str(PurePosixPath(name).parent) for name in names} - {"."}),
        bytes=sum(sizes.values()), reference=reference,
    )  # fmt: skip


def _names(folder: Path) -> list[str]:
    """Every file below it but hidden ones, such as those of git."""
    below = ((path, path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(
        name.as_posix()
        for path, name in below
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    )


def _cached(repository: str) -> str:
    return f"models--{repository.replace('/', '--')}"


def _made_up_commit(folder: Path) -> str:
    told = "\n".join(f"{name} {(folder / name).stat().st_size}" for name in _names(folder) if is_wanted(name))
    return hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
