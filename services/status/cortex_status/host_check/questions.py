"""What a host is asked, from the inventory.

Owns: which ports, programs, folders and names concern a host. Does not own: looking (ansible/files/probe.py), or what
an answer means (judgement.py). Called by: the filters of ansible/plugins.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from cortex_contracts.inventory.deployment import Deployment, is_address
from cortex_contracts.inventory.fleet import Fleet, GatewayHost, NeuronHost
from cortex_contracts.inventory.sources import names_a_path

ROOT = "/opt/cortex"
_HOME = "/var/lib/neuron"


class Port(BaseModel):
    """One that a program of the host listens on, or will."""

    model_config = ConfigDict(frozen=True)

    variable: str
    number: int
    unit: str


class Peer(BaseModel):
    """A neuron as a gateway asks it."""

    model_config = ConfigDict(frozen=True)

    name: str
    address: str
    port: int


class Question(BaseModel):
    """What ansible/files/probe.py is given. `sources` are by model, `programs` by variable."""

    model_config = ConfigDict(frozen=True)

    programs_of: tuple[str, ...]
    python: str
    root: str
    systemd: bool
    ports: tuple[Port, ...]
    programs: dict[str, str]
    sources: dict[str, str]
    names: tuple[str, ...]
    neurons: tuple[Peer, ...]


def questions(fleet: Fleet, deployments: dict[str, Deployment]) -> dict[str, Question]:
    """By host; `deployments` has one for each of the fleet's."""
    gateways = {host.name: host for host in fleet.gateways}
    neurons = {host.name: host for host in fleet.neurons}
    return {
        name: _question(fleet, deployments[name], gateways.get(name), neurons.get(name))
        for name in dict.fromkeys([*gateways, *neurons])
    }


def _question(fleet: Fleet, deployment: Deployment, gateway: GatewayHost | None, neuron: NeuronHost | None) -> Question:
    programs = {"neuron_vllm_bin": neuron.vllm_bin} if neuron and neuron.vllm_bin else {}
    return Question(
        programs_of=tuple(name for name, host in (("gateway", gateway), ("neuron", neuron)) if host),
        python=deployment.python,
        root=ROOT,
        systemd=deployment.service_manager == "systemd",
        ports=tuple(_ports(gateway, neuron)),
        programs=programs,
        sources={model.id: _path(model.source) for model in fleet.models if neuron and names_a_path(model.source)},
        names=tuple(host.address for host in fleet.gateways if neuron and not is_address(host.address)),
        neurons=tuple(Peer(name=each.name, address=each.address, port=each.port) for each in fleet.neurons if gateway),
    )


def _ports(gateway: GatewayHost | None, neuron: NeuronHost | None) -> list[Port]:
    found = []
    if gateway:
        for variable, listen in (("listen", gateway.listen), ("metrics_listen", gateway.metrics_listen)):
            number = int(listen.rpartition(":")[2])
            found.append(Port(variable=f"gateway_{variable}", number=number, unit="cortex-gateway"))
    if neuron:
        found.append(Port(variable="neuron_port", number=neuron.port, unit="cortex-neuron"))
    return found


def _path(source: str) -> str:
    """As a daemon takes it that systemd has started: in /, with a home of its own."""
    return re.sub(r"^(?![/])", "/", re.sub(r"^~(?=/|$)", _HOME, source))
