"""The schema's judgement and defaults, for site.yml and the roles' templates.

Owns: getting Ansible's values across to plain ones. Does not own: what is right (cortex_contracts.inventory).
Works with ansible-core 2.19 to 2.21, whose lazy and tagged values `plain` undoes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError
from pydantic import SecretStr

try:
    from cortex_contracts.inventory.clients import Allowance, KeyEntry, digest_of
    from cortex_contracts.inventory.problems import InventoryInvalid, api_keys, build, catalogue, problems
    from cortex_contracts.inventory.variables import GROUPS, Hosts, Unreadable, is_ours, plain
except ImportError as error:
    raise AnsibleError(
        f"cortex is not installed for the Python that runs Ansible; `make` does so in .venv: {error}"
    ) from error


def cortex_problems(groups: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the inventory, a line each; [] when nothing is."""
    return problems(_hosts(groups, hostvars), plain(groups))


def cortex_neurons(groups: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every neuron's name and URL, as the gateway's [[neurons]]."""
    try:
        fleet = build(_hosts(groups, hostvars), plain(groups))
    except InventoryInvalid as invalid:
        raise AnsibleFilterError(str(invalid)) from invalid
    return [{"name": neuron.name, "url": neuron.url} for neuron in fleet.neurons]


def cortex_sources(groups: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where gateways ask neurons from: each one's address, and whether that is a name yet."""
    addresses = [str(plain(hostvars[name].get("ansible_host", name))) for name in groups.get("gateway", [])]
    return [{"address": address, "is_name": not _is_address(address)} for address in dict.fromkeys(addresses)]


def cortex_catalogue(entries: Any) -> list[dict[str, Any]]:
    """The entries of cortex_models with every key as TOML writes it: nothing for none, dotted keys for a table."""
    models, found = catalogue(plain(entries))
    if found:
        raise AnsibleFilterError("\n".join(found))
    return [_dotted(model.model_dump(mode="json", exclude_none=True)) for model in models]


def cortex_keys(entries: Any) -> list[dict[str, Any]]:
    """The entries of gateway_api_keys as keys.toml has them: digests in the place of keys, nothing for none."""
    keys, found = api_keys(plain(entries))
    if found:
        raise AnsibleFilterError("\n".join(found))
    return [KeyEntry.of(key).model_dump(mode="json", exclude_none=True) for key in keys]


def cortex_allowance(values: Any) -> dict[str, Any]:
    """gateway_anonymous_allowance with every key as TOML writes it."""
    return Allowance.model_validate(plain(values)).model_dump(mode="json", exclude_none=True)


def cortex_digest(key: Any) -> str:
    """The digest of gateway_admin_key."""
    return digest_of(SecretStr(plain(key)))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _dotted(entry: Mapping[str, Any]) -> dict[str, Any]:
    tables = {key: value for key, value in entry.items() if isinstance(value, dict)}
    inner = {f"{key}.{name}": value for key, table in tables.items() for name, value in table.items()}
    return {key: value for key, value in entry.items() if key not in tables} | inner


def _hosts(groups: Mapping[str, Any], hostvars: Mapping[str, Any]) -> Hosts:
    names = dict.fromkeys(str(name) for group in GROUPS for name in groups.get(group, []))
    return {name: _variables(hostvars[name]) for name in names}


def _variables(host: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in filter(is_ours, host):
        try:
            values[str(name)] = plain(host[name])
        except AnsibleError as error:
            values[str(name)] = Unreadable.because(error)
    return values


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "cortex_problems": cortex_problems,
            "cortex_neurons": cortex_neurons,
            "cortex_sources": cortex_sources,
            "cortex_catalogue": cortex_catalogue,
            "cortex_keys": cortex_keys,
            "cortex_allowance": cortex_allowance,
            "cortex_digest": cortex_digest,
        }
