"""The gateway's files, cortex.toml, models.toml and keys.toml, read once into frozen values.

Owns: opening them, and the relations inside and between them. Does not own: their shapes (cortex_contracts.inventory).
Called by: cli.py at start and for --check-*, gateway.py on SIGHUP. Raises ConfigInvalid with every problem (case L11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cortex_contracts.inventory.files import ConfigInvalid, GatewayFile, KeysFile, ModelsFile, parse
from cortex_gateway.admission.keys import Keys, key_clashes, unknown_models
from cortex_gateway.catalogue import Catalogue, clashes


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the gateway is told."""

    settings: GatewayFile
    catalogue: Catalogue
    keys: Keys


def read(config_path: str, models_path: str, keys_path: str | None) -> Config:
    """All files. Without that of the keys nobody needs one, and nobody is an operator.

    Raises ConfigInvalid with the problems of all.
    """
    found: list[str] = []
    settings, models, keys = GatewayFile(), ModelsFile(), KeysFile()
    try:
        settings = read_settings(config_path)
    except ConfigInvalid as invalid:
        found += invalid.problems
    try:
        models = read_models(models_path)
    except ConfigInvalid as invalid:
        found += invalid.problems
    try:
        keys = read_keys(keys_path) if keys_path is not None else keys
    except ConfigInvalid as invalid:
        found += invalid.problems
    catalogue = Catalogue.of(models.models)
    if not found:
        found = [f"{keys_path}: {line}" for line in unknown_models(keys, catalogue)]
    if found:
        raise ConfigInvalid(found)
    return Config(settings=settings, catalogue=catalogue, keys=Keys.of(keys, catalogue))


def read_settings(path: str) -> GatewayFile:
    """cortex.toml. Raises ConfigInvalid."""
    file = parse(_text(path), path, GatewayFile)
    if found := [f"{path}: {line}" for line in _neuron_clashes(file)]:
        raise ConfigInvalid(found)
    return file


def read_models(path: str) -> ModelsFile:
    """models.toml. Raises ConfigInvalid."""
    file = parse(_text(path), path, ModelsFile)
    if found := [f"{path}: {line}" for line in clashes(file.models)]:
        raise ConfigInvalid(found)
    return file


def read_keys(path: str) -> KeysFile:
    """keys.toml. Raises ConfigInvalid."""
    file = parse(_text(path), path, KeysFile)
    if found := [f"{path}: {line}" for line in key_clashes(file)]:
        raise ConfigInvalid(found)
    return file


def address(listen: str) -> tuple[str, int]:
    """Host and port of a `listen` value, such as "[::]:31313"."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else str(failure)
        raise ConfigInvalid([f"{path}: cannot be read: {reason}"]) from failure


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
