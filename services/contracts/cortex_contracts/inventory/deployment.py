"""How hosts are set up: variables that roles read, and no service does.

Owns: names, types, defaults and limits of these. Does not own: what the services are told (fleet.py), which role has
which prefix (roles.py).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cortex_contracts.inventory.fleet import Folder, Program, Seconds
from cortex_contracts.inventory.strict import Strict


def _is_a_network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"should be an address or a network: {error}") from error
    return value


def is_address(text: str) -> bool:
    """Whether it is an IP address, and so no name that must be resolved."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Network = Annotated[str, AfterValidator(_is_a_network)]


class Deployment(Strict):
    """How any host is set up: variables `cortex_*`, beside `cortex_models`."""

    prefix: Annotated[
        Folder | Literal[""],
        Field(
            description="Folder that all files go under; empty is the root of the file system",
            examples=["", "/srv/cortex"],
        ),
    ] = ""
    service_manager: Annotated[
        Literal["systemd", "none"],
        Field(description="What runs the services; with none the files are rendered and nothing is started"),
    ] = "systemd"
    bin_dir: Annotated[
        Folder,
        Field(
            description="Folder where the host has cortex-gateway and cortex-neuron. The default is where cortex is "
            "installed; what is in another is yours to put there"
        ),
    ] = "/opt/cortex/current/bin"
    python: Annotated[
        Program,
        Field(
            description="Python of the host that cortex is installed for: 3.11 or later", examples=["/usr/bin/python3"]
        ),
    ] = "/usr/bin/python3"
    bundle: Annotated[
        str,
        Field(
            description="Folder on the control machine for what hosts install; empty is build/bundle of the checkout"
        ),
    ] = ""
    keep_releases: Annotated[
        int, Field(ge=2, description="Releases that stay installed: the one that runs, and those before it")
    ] = 3
    drain_timeout_s: Annotated[
        Seconds,
        Field(
            description="How long a restart or upgrade waits for what a neuron still answers; then it is left as it is"
        ),
    ] = 600.0
    firewall: Annotated[
        Literal["auto", "nftables", "firewalld", "none"],
        Field(
            description="What keeps all but gateways and cortex_operators from a neuron's port; auto: firewalld where "
            "it runs, else nftables where the host has nft"
        ),
    ] = "auto"
    operators: Annotated[
        tuple[Network, ...],
        Field(
            description="Addresses and networks that may ask neurons, beside the gateways: where cortex-status is run"
        ),
    ] = ()
