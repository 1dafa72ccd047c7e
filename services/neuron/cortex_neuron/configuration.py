"""The neuron's files, neuron.toml and models.toml, read into frozen values.

Owns: opening them and what the schema alone cannot say of them. Does not own: the schema (cortex_contracts.inventory),
or when they are read. Called by: cli at start and for --check-*, in_effect on SIGHUP, doctor. Raises ConfigInvalid with
every problem (case L11).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cortex_contracts.inventory.files import ConfigInvalid, ModelsFile, NeuronFile, NeuronSection, parse
from cortex_contracts.inventory.fleet import Model
from cortex_serving import provenance

SETTINGS, MODELS = "neuron.toml", "models.toml"  # what GET /version calls them, wherever they are
_SOCKET_PATH_LIMIT = 107  # bytes of a Unix socket's address, less the closing zero
_LONGEST_SOCKET_NAME = "g999999.ipc"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything the neuron is told, and digests of the bytes that said so."""

    settings: NeuronSection
    models: tuple[Model, ...]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Files:
    """Where its files are."""

    config: str
    models: str

    def read(self) -> Configuration:
        """Both. Raises ConfigInvalid with the problems of both."""
        found: list[str] = []
        try:
            settings, settings_digest = _settings(self.config)
        except ConfigInvalid as invalid:
            found += invalid.problems
        try:
            catalogue, models_digest = _catalogue(self.models)
        except ConfigInvalid as invalid:
            found += invalid.problems
        if found:
            raise ConfigInvalid(found)
        digests = {SETTINGS: settings_digest, MODELS: models_digest}
        return Configuration(settings.neuron, catalogue.models, digests)


def read_settings(path: str) -> NeuronFile:
    """neuron.toml. Raises ConfigInvalid."""
    return _settings(path)[0]


def read_models(path: str) -> ModelsFile:
    """models.toml. Raises ConfigInvalid."""
    return _catalogue(path)[0]


def _settings(path: str) -> tuple[NeuronFile, str]:
    """The file's content, and the digest of it."""
    text, digest = _text(path)
    file = parse(text, path, NeuronFile)
    socket_path = f"{file.neuron.runtime_dir}/{_LONGEST_SOCKET_NAME}"
    if len(socket_path.encode()) > _SOCKET_PATH_LIMIT:
        words = f"{file.neuron.runtime_dir!r} is too long: sockets live there, and their path may have"
        raise ConfigInvalid([f"{path}: neuron.runtime_dir: {words} {_SOCKET_PATH_LIMIT} bytes"])
    return file, digest


def _catalogue(path: str) -> tuple[ModelsFile, str]:
    """The file's content, and the digest of it."""
    text, digest = _text(path)
    file = parse(text, path, ModelsFile)
    names = Counter(name for model in file.models for name in (model.id, *model.aliases))
    clashes = [(name, times) for name, times in names.items() if times > 1]
    if clashes:
        raise ConfigInvalid([f"{path}: models: the name {name!r} is given {times} times" for name, times in clashes])
    return file, digest


def _text(path: str) -> tuple[str, str]:
    try:
        content = Path(path).read_bytes()
        return content.decode("utf-8"), provenance.digest(content)
    except OSError as failure:
        raise ConfigInvalid([f"{path}: cannot be read: {failure.strerror}"]) from failure
    except UnicodeDecodeError as failure:
        raise ConfigInvalid([f"{path}: not UTF-8: {failure.reason} at byte {failure.start}"]) from failure
