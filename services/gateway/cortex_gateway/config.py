"""The gateway's files, cortex.toml, models.toml and keys.toml, read once into frozen values.

Owns: opening them, and the relations inside and between them. Does not own: their shapes (cortex_contracts.inventory).
Called by: cli.py at start and for --check-*, gateway.py on SIGHUP. Raises ConfigInvalid with every problem (case L11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from cortex_contracts.inventory.files import ConfigInvalid, GatewayFile, KeysFile, ModelsFile, parse
from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_gateway.admission.keys import Keys, key_clashes, unknown_models
from cortex_gateway.catalogue import Catalogue, clashes
from cortex_serving.provenance import digest

# Of [gateway]: a reload cannot take these up, so what runs goes on with what it was started with.
NEED_A_RESTART = ("listen", "metrics_listen", "body_limit_mb", "workers", "otlp_endpoint")

_Content = TypeVar("_Content")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the gateway is told. `files` are the digests of what was read for it, by the files' usual names."""

    settings: GatewayFile
    catalogue: Catalogue
    keys: Keys
    files: Mapping[str, str] = field(default_factory=dict)


def read(config_path: str, models_path: str, keys_path: str | None) -> Config:
    """All files. Without that of the keys nobody needs one, and nobody is an operator.

    Raises ConfigInvalid with the problems of all.
    """
    found: list[str] = []
    files: dict[str, str] = {}

    def taken(name: str, path: str, judge: Callable[[bytes, str], _Content], stand_in: _Content) -> _Content:
        try:
            content = _content(path)
            files[name] = digest(content)
            return judge(content, path)
        except ConfigInvalid as invalid:
            found.extend(invalid.problems)
            return stand_in

    settings = taken("cortex.toml", config_path, _settings, GatewayFile())
    models = taken("models.toml", models_path, _models, ModelsFile())
    keys = taken("keys.toml", keys_path, _keys, KeysFile()) if keys_path is not None else KeysFile()
    catalogue = Catalogue.of(models.models)
    if not found:
        found = [f"{keys_path}: {line}" for line in unknown_models(keys, catalogue)]
    if found:
        raise ConfigInvalid(found)
    return Config(settings, catalogue, Keys.of(keys, catalogue), MappingProxyType(files))


def read_settings(path: str) -> GatewayFile:
    """cortex.toml. Raises ConfigInvalid."""
    return _settings(_content(path), path)


def read_models(path: str) -> ModelsFile:
    """models.toml. Raises ConfigInvalid."""
    return _models(_content(path), path)


def read_keys(path: str) -> KeysFile:
    """keys.toml. Raises ConfigInvalid."""
    return _keys(_content(path), path)


def awaiting_a_restart(started_with: GatewaySettings, settings: GatewaySettings) -> list[str]:
    """The keys of cortex.toml whose values only a restart takes up."""
    return [f"gateway.{key}" for key in NEED_A_RESTART if getattr(settings, key) != getattr(started_with, key)]


def address(listen: str) -> tuple[str, int]:
    """Host and port of a `listen` value, such as "[::]:31313"."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _content(path: str) -> bytes:
    """The file's bytes, read once: what is parsed is what is digested."""
    try:
        return Path(path).read_bytes()
    except OSError as failure:
        raise ConfigInvalid([f"{path}: cannot be read: {failure.strerror}"]) from failure


def _text(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise ConfigInvalid([f"{path}: cannot be read: {failure}"]) from failure


def _settings(content: bytes, path: str) -> GatewayFile:
    file = parse(_text(content, path), path, GatewayFile)
    return _without(_neuron_clashes(file), path, file)


def _models(content: bytes, path: str) -> ModelsFile:
    file = parse(_text(content, path), path, ModelsFile)
    return _without(clashes(file.models), path, file)


def _keys(content: bytes, path: str) -> KeysFile:
    file = parse(_text(content, path), path, KeysFile)
    return _without(key_clashes(file), path, file)


def _without(faults: Iterable[str], path: str, file: _Content) -> _Content:
    """The file, which has none of these. Raises ConfigInvalid."""
    if found := [f"{path}: {line}" for line in faults]:
        raise ConfigInvalid(found)
    return file


def _neuron_clashes(file: GatewayFile) -> Iterator[str]:
    names: set[str] = set()
    urls: dict[str, str] = {}
    for number, neuron in enumerate(file.neurons):
        if neuron.name in names:
            yield f"neurons.{number}.name: {neuron.name!r} is there twice"
        names.add(neuron.name)
        if not neuron.url.startswith(("http://", "https://")):
            yield f"neurons.{number}.url: should begin with http:// (it is {neuron.url!r})"
        elif urls.setdefault(neuron.url.rstrip("/"), neuron.name) != neuron.name:
            yield f"neurons.{number}.url: {neuron.url!r} is also that of {urls[neuron.url.rstrip('/')]!r}"
