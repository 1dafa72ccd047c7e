"""The TOML files that the roles render and the services read: cortex.toml, models.toml, neuron.toml.

Owns: their shapes and the reading of their text, with errors that name file, key and value. Does not own: opening
the file (the services do, once, at the edge).
"""

from __future__ import annotations

import tomllib
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from cortex_contracts.inventory.fleet import Gateway, Model, Neuron, Strict


class ConfigInvalid(Exception):
    """A configuration file cannot be used; `problems` are lines that name file, key and value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Eviction(Strict):
    """[eviction] of cortex.toml"""

    strategy: Literal["lru", "priority"] = "lru"
    defrag_after_cycles: int = Field(default=50, ge=0)


class NeuronAddress(Strict):
    """[[neurons]] of cortex.toml: where a neuron is and what the inventory says of it."""

    name: str
    url: str


class GatewaySection(Strict):
    """[gateway] of cortex.toml: fields of inventory.Gateway, less those of [eviction]."""

    listen: str = Gateway.model_fields["listen"].default
    metrics_listen: str = Gateway.model_fields["metrics_listen"].default
    body_limit_mb: int = Gateway.model_fields["body_limit_mb"].default
    connect_timeout_s: float = Gateway.model_fields["connect_timeout_s"].default
    idle_timeout_s: float = Gateway.model_fields["idle_timeout_s"].default
    cold_load_timeout_s: float = Gateway.model_fields["cold_load_timeout_s"].default
    poll_interval_s: float = Gateway.model_fields["poll_interval_s"].default
    drain_timeout_s: float = Gateway.model_fields["drain_timeout_s"].default


class GatewayFile(Strict):
    """cortex.toml"""

    gateway: GatewaySection = GatewaySection()
    eviction: Eviction = Eviction()
    neurons: tuple[NeuronAddress, ...] = ()


class ModelsFile(Strict):
    """models.toml: the catalogue."""

    models: tuple[Model, ...] = ()


class NeuronSection(Neuron):
    """[neuron] of neuron.toml: inventory.Neuron, the host's name and its folders."""

    name: str
    state_dir: str = "/var/lib/neuron"
    runtime_dir: str = "/run/neuron"


class NeuronFile(Strict):
    """neuron.toml"""

    neuron: NeuronSection
    models: tuple[Model, ...] = ()


File = TypeVar("File", GatewayFile, ModelsFile, NeuronFile)


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
        raise ConfigInvalid([_line(path, item) for item in error.errors()]) from error


def _line(path: str, item: object) -> str:
    assert isinstance(item, dict)
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{path}: {key}: unknown key (its value is {item['input']!r})"
    return f"{path}: {key}: {item['msg']} (it is {item['input']!r})"
