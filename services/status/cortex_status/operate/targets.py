"""Which gateways a command may ask, and the admin key for each.

Owns: what `-i`, `--gateway` and `--admin-key-file` come to. Does not own: reading inventories (inventory.py).
Called by: commands.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cortex_contracts.inventory.clients import DIGEST_PREFIX
from cortex_contracts.inventory.fleet import GatewayHost
from cortex_contracts.inventory.problems import InventoryInvalid
from cortex_status import inventory
from cortex_status.fleet_status.addresses import gateway_url
from cortex_status.operate.failures import Unusable

KEY_VARIABLE = "CORTEX_ADMIN_KEY"
_REMEDY = f"set {KEY_VARIABLE}, or give --admin-key-file"


@dataclass(frozen=True, slots=True)
class Source:
    """What the command line says of it. `gateway` is a URL, or a host of the inventory; empty is any."""

    inventories: Sequence[str] = ()
    vault_password_files: Sequence[str] = ()
    gateway: str = ""
    admin_key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway that may be asked. `key_from` says where its key was found, for who must mend it."""

    name: str
    url: str
    key_from: str
    key: str = field(repr=False)


def targets(source: Source, environment: Mapping[str, str]) -> list[Target]:
    """The gateways, in the inventory's order. Raises Unusable."""
    given = _given_key(source, environment)
    if "://" in source.gateway:
        _check_url(source.gateway)
        if given is None:
            raise Unusable(f"no admin key for {source.gateway}: {_REMEDY}")
        return [Target(source.gateway, source.gateway.rstrip("/"), *given)]
    if not source.inventories:
        hint = f"; {source.gateway!r} is no URL" if source.gateway else ""
        raise Unusable(f"say which fleet: -i INVENTORY, or --gateway URL such as http://gateway:31313{hint}")
    return [_declared(gateway, source, given) for gateway in _chosen(source)]


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port out of range
        is_one = False
    if not is_one or parts.query or parts.fragment:
        raise Unusable(f"{url!r} is no URL of a gateway, such as http://gateway:31313")


def _given_key(source: Source, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Where from, and the key, by the command line or else the environment."""
    if source.admin_key_file is not None:
        try:
            return source.admin_key_file, _checked(Path(source.admin_key_file).read_text(), source.admin_key_file)
        except (OSError, UnicodeDecodeError) as failure:
            reason = failure.strerror if isinstance(failure, OSError) else "not text"
            raise Unusable(f"{source.admin_key_file}: cannot be read: {reason}") from failure
    key = environment.get(KEY_VARIABLE, "")
    return (KEY_VARIABLE, _checked(key, KEY_VARIABLE)) if key else None


def _checked(text: str, where: str) -> str:
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise Unusable(f"{where}: holds no admin key: one line of printable ASCII is expected")
    return key


def _chosen(source: Source) -> Sequence[GatewayHost]:
    gateways = _gateways(source)
    if not gateways:
        raise Unusable(f"{', '.join(source.inventories)}: its group `gateway` has no host")
    chosen = [gateway for gateway in gateways if source.gateway in ("", gateway.name)]
    if not chosen:
        known = ", ".join(gateway.name for gateway in gateways)
        raise Unusable(f"no gateway {source.gateway!r} in the inventory; there is: {known}")
    return chosen


def _gateways(source: Source) -> Sequence[GatewayHost]:
    try:
        return inventory.fleet(inventory.read(source.inventories, source.vault_password_files)).gateways
    except inventory.InventoryUnreadable as unreadable:
        raise Unusable(str(unreadable)) from unreadable
    except InventoryInvalid as invalid:
        raise Unusable("\n".join(invalid.problems)) from invalid


def _declared(gateway: GatewayHost, source: Source, given: tuple[str, str] | None) -> Target:
    declared = gateway.admin_key.get_secret_value() if gateway.admin_key is not None else ""
    readable = declared and not declared.startswith(DIGEST_PREFIX)
    if readable and source.admin_key_file is None:
        given = "gateway_admin_key of the inventory", declared
    if given is None:
        has = "only the digest of its admin key" if declared else "no admin key (gateway_admin_key, in a vault)"
        raise Unusable(f"the inventory has {has} for gateway {gateway.name}: {_REMEDY}")
    return Target(gateway.name, gateway_url(gateway), *given)
