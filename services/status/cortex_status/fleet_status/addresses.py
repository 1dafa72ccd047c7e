"""Where this machine can ask a gateway that listens at some address, and with which key.

Does not own: a neuron's URL, which is `NeuronHost.url`. Called by: asking, drift, scrape_targets.py.
"""

from __future__ import annotations

from ipaddress import ip_address

from cortex_contracts.inventory.clients import DIGEST_PREFIX
from cortex_contracts.inventory.fleet import GatewayHost


def gateway_url(gateway: GatewayHost) -> str:
    """The base URL of a gateway, seen from here; no trailing slash."""
    return f"http://{seen_at(gateway.listen, gateway.address)}"


def seen_at(listen: str, address: str) -> str:
    """The host and port to ask for what listens at `listen`, on a host at `address`.

    A wildcard is no address to ask, and a loopback one is the host's own, not ours: both become the host's address,
    unless the host is this machine.
    """
    host, port = listen.rsplit(":", 1)
    host = host.strip("[]")
    elsewhere = _is_loopback(host) and not _is_loopback(address)
    if elsewhere or _is_wildcard(host):
        host = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def catalogue_key(gateway: GatewayHost) -> str | None:
    """A key that the gateway shows its whole catalogue for; None where the inventory has none, or digests alone."""
    secrets = [gateway.admin_key, *(key.key for key in gateway.api_keys if not key.models)]
    keys = (secret.get_secret_value() for secret in secrets if secret is not None)
    return next((key for key in keys if not key.startswith(DIGEST_PREFIX)), None)


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
