"""Which programs `cortex up` runs, from what the inventory declares.

Owns: command lines, files, addresses. Pure. Does not own: starting them (children.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cortex_contracts.inventory.deployment import Deployment
from cortex_contracts.inventory.fleet import Fleet, GatewayHost, NeuronHost
from cortex_status.inventory import Declared

LOOPBACK = frozenset({"0.0.0.0", "127.0.0.1", "localhost"})  # noqa: S104  compared with, not bound
STOP_MARGIN_S = 10.0  # what a service may take to end, over its own drain_timeout_s


@dataclass(frozen=True)
class Listener:
    """An address a service takes, and the variable that says so."""

    variable: str
    host: str
    port: int


@dataclass(frozen=True)
class Service:
    """One program on this machine."""

    program: str
    host: str
    command: tuple[str, ...]
    log: Path
    listeners: tuple[Listener, ...]
    url: str
    stop_timeout_s: float

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.program} of host {self.host}"


@dataclass(frozen=True)
class NeuronService(Service):
    """A neuron, with what its readiness takes."""

    load_timeout_s: float


def services(declared: Declared, fleet: Fleet) -> list[Service]:
    """Neurons, then gateways: those of hosts that are this machine and have no service manager."""
    hosts = {name: _deployment(variables) for name, variables in declared.hosts.items() if _is_here(variables)}
    ours = {name: deployment for name, deployment in hosts.items() if deployment.service_manager == "none"}
    neurons = [_neuron(neuron, ours[neuron.name]) for neuron in fleet.neurons if neuron.name in ours]
    gateways = [_gateway(gateway, ours[gateway.name]) for gateway in fleet.gateways if gateway.name in ours]
    return [*neurons, *gateways]


def _is_here(variables: dict[str, object]) -> bool:
    return variables.get("ansible_connection") == "local"


def _deployment(variables: dict[str, object]) -> Deployment:
    own = {name: variables[f"cortex_{name}"] for name in Deployment.model_fields if f"cortex_{name}" in variables}
    return Deployment.model_validate(own)


def _neuron(neuron: NeuronHost, deployment: Deployment) -> NeuronService:
    files = f"{deployment.prefix}/etc/neuron"
    return NeuronService(
        program="cortex-neuron",
        host=neuron.name,
        command=(
            f"{deployment.bin_dir}/cortex-neuron",
            *("--config", f"{files}/neuron.toml"),
            *("--models", f"{files}/models.toml"),
        ),
        log=Path(deployment.prefix, "var/log/cortex-neuron.log"),
        listeners=(Listener("neuron_port", neuron.bind, neuron.port),),
        url=neuron.url,
        stop_timeout_s=neuron.drain_timeout_s + STOP_MARGIN_S,
        load_timeout_s=neuron.load_timeout_s,
    )


def _gateway(gateway: GatewayHost, deployment: Deployment) -> Service:
    files = f"{deployment.prefix}/etc/cortex"
    listen, metrics = (
        _listener("gateway_listen", gateway.listen),
        _listener("gateway_metrics_listen", gateway.metrics_listen),
    )
    return Service(
        program="cortex-gateway",
        host=gateway.name,
        command=(
            f"{deployment.bin_dir}/cortex-gateway",
            *("--config", f"{files}/cortex.toml"),
            *("--models", f"{files}/models.toml"),
            *("--keys", f"{files}/keys.toml"),
        ),
        log=Path(deployment.prefix, "var/log/cortex-gateway.log"),
        listeners=(listen, metrics),
        url=f"http://localhost:{listen.port}" if listen.host in LOOPBACK else f"http://{gateway.listen}",
        stop_timeout_s=gateway.drain_timeout_s + STOP_MARGIN_S,
    )


def _listener(variable: str, listen: str) -> Listener:
    host, _, port = listen.rpartition(":")
    return Listener(variable, host.strip("[]"), int(port))
