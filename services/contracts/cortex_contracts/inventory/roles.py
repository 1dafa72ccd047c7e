"""The roles whose variables the inventory declares: each one's prefix, shape, and the hosts it is for.

Called by: argument_specs.py and reference.py (a role's options), problems.py (a host's variables).
"""

from __future__ import annotations

from dataclasses import dataclass

from cortex_contracts.inventory.deployment import Deployment
from cortex_contracts.inventory.fleet import Gateway, Neuron
from cortex_contracts.inventory.monitoring import Monitoring
from cortex_contracts.inventory.nvidia import NvidiaCuda, NvidiaDriver, NvidiaNccl
from cortex_contracts.inventory.strict import Strict


@dataclass(frozen=True)
class Role:
    """A folder of roles/. `told` are variables that a service is told, too, and fleet.py's to judge."""

    name: str
    title: str
    prefix: str
    shape: type[Strict]
    told: bool = False


ROLES = (
    Role("cortex_common", "What every host of cortex has", "cortex_", Deployment),
    Role("gateway", "The gateway: one endpoint for the whole fleet", "gateway_", Gateway, told=True),
    Role("neuron", "The neuron: serves models on a GPU host", "neuron_", Neuron, told=True),
    Role("monitoring", "Prometheus and Grafana of a host that runs them already", "monitoring_", Monitoring),
    Role("nvidia_driver", "The NVIDIA driver of a GPU host", "nvidia_driver_", NvidiaDriver),
    Role("nvidia_cuda", "The CUDA toolkit, where it is asked for", "nvidia_cuda_", NvidiaCuda),
    Role("nvidia_nccl", "NCCL's settings for all programs of a host", "nvidia_nccl_", NvidiaNccl),
)
