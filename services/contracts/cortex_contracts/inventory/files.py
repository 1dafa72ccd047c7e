"""The TOML files that the roles render and the services read: cortex.toml, models.toml, keys.toml, neuron.toml.

Owns: their shapes and the reading of their text, with errors that name file, key and value. Does not own: opening
the file (the services do, once, at the edge).
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from cortex_contracts.inventory.clients import MOST_KEYS, Allowance, Anonymous, Digest, KeyEntry
from cortex_contracts.inventory.fleet import EvictionStrategy, GatewaySettings, Model, NeuronSettings
from cortex_contracts.inventory.strict import Strict


class ConfigInvalid(Exception):
    """A configuration file cannot be used; `problems` are lines that name file, key and value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Eviction(Strict):
    """[eviction] of cortex.toml"""

    strategy: EvictionStrategy = "lru"
    defrag_after_cycles: int = Field(default=50, ge=0)


class NeuronAddress(Strict):
    """[[neurons]] of cortex.toml: where a neuron is and what the inventory says of it."""

    name: str
    url: str


class GatewayFile(Strict):
    """cortex.toml"""

    gateway: GatewaySettings = GatewaySettings()
    eviction: Eviction = Eviction()
    neurons: tuple[NeuronAddress, ...] = ()


class ModelsFile(Strict):
    """models.toml: the catalogue, of a gateway or a neuron."""

    models: tuple[Model, ...] = ()


class KeysFile(Strict):
    """keys.toml: who may call, by digests of their keys. With `auto`, requests without a key are served while there is
    no key."""

    anonymous: Anonymous = "auto"
    anonymous_allowance: Allowance = Allowance()
    admin_sha256: Digest | None = None
    keys: Annotated[tuple[KeyEntry, ...], Field(max_length=MOST_KEYS)] = ()


class NeuronSection(NeuronSettings):
    """[neuron] of neuron.toml: NeuronSettings, the host's name and its folder of sockets."""

    name: str
    runtime_dir: str = "/run/neuron"


class NeuronFile(Strict):
    """neuron.toml: a neuron's settings. Its catalogue is in models.toml."""

    neuron: NeuronSection


# Below these a value is never shown: a key may stand where its digest belongs, or its owner's name.
_SECRET = frozenset({"environment", "keys", "admin_sha256", "admin_key", "hub_token"})

File = TypeVar("File", GatewayFile, ModelsFile, KeysFile, NeuronFile)


def parse(text: str, path: str, shape: type[File]) -> File:
    """The file's content as `shape`.

    Raises ConfigInvalid, every problem at once, each naming `path`, the key and the value.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid([f"{path}: not TOML: {error}"]) from error
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        raise ConfigInvalid([f"{path}: {line}" for line in _lines(error.errors())]) from error


def judge(files: Iterable[tuple[str, Callable[[str], object]]]) -> None:
    """Have each file read by what reads it. Raises ConfigInvalid with the problems of all."""
    found: list[str] = []
    for path, read in files:
        try:
            read(path)
        except ConfigInvalid as invalid:
            found += invalid.problems
    if found:
        raise ConfigInvalid(found)


def _lines(faults: list[ErrorDetails]) -> list[str]:
    """A line for each key. One that takes several kinds of value has a fault for each kind: they share the line."""
    lines: dict[str, str] = {}
    for fault in faults:
        key = ".".join(itertools.takewhile(_is_key, map(str, fault["loc"])))
        lines[key] = f"{lines[key]}; or: {fault['msg']}" if key in lines else _words(key, fault)
    return [f"{key}: {words}" for key, words in lines.items()]


def _is_key(part: str) -> bool:
    return "[" not in part  # what pydantic puts after the key of a union: literal[…], tuple[…]


def _words(key: str, fault: ErrorDetails) -> str:
    if fault["type"] == "missing":
        return "is missing"
    message = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"]
    return f"it is {_shown(key, fault['input'])}: {message}"


def _shown(key: str, value: object) -> str:
    """The value; less what may hold a token or a key, for these lines end in a service's log."""
    secret = not _SECRET.isdisjoint(key.split(".")) or "{" in repr(value)
    return f"a {type(value).__name__}" if secret else repr(value)
