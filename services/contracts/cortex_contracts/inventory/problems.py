"""Everything that is wrong with an inventory, at once and in the inventory's own words; or the Fleet when nothing is.

Owns: the walk over groups, hosts and catalogue, and the lines' form "host <name>: <variable>: <what>, is <value>".
Does not own: the schema (fleet.py), one value's faults (reading.py), relations (relations.py). Pure.
Called by: the Ansible filter `cortex_problems`, `cortex inventory check`, `cortex up`, `cortex status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cortex_contracts.inventory.clients import DIGEST_PREFIX, Allowance, ApiKey
from cortex_contracts.inventory.deployment import Deployment
from cortex_contracts.inventory.entries import take_entries, take_keys
from cortex_contracts.inventory.fleet import Fleet, Gateway, GatewayHost, Model, Neuron, NeuronHost
from cortex_contracts.inventory.outsiders import outsiders
from cortex_contracts.inventory.reading import suggestion, take
from cortex_contracts.inventory.relations import breaches, key_faults, prefix_faults
from cortex_contracts.inventory.roles import ROLES
from cortex_contracts.inventory.variables import (
    CONNECTION,
    GROUPS,
    OPTIONAL_GROUPS,
    PREFIXES,
    Groups,
    Hosts,
    Unreadable,
    members,
)

SHOWN_HOSTS = 4
SETTING_UP = [role for role in ROLES if not role.told]
VARIABLES = ("cortex_models", *(f"{role.prefix}{name}" for role in ROLES for name in role.shape.model_fields))


class InventoryInvalid(Exception):
    """The inventory is no fleet that can work; `problems` are lines in the inventory's words."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Faults:
    """Faults of hosts; hosts that share one, as from group_vars, share its line."""

    def __init__(self) -> None:
        self._hosts: dict[str, list[str]] = {}

    def add(self, host: str, lines: Iterable[str]) -> None:
        for line in lines:
            self._hosts.setdefault(line, []).append(host)

    def lines(self) -> list[str]:
        return [f"{_listed(hosts)}: {line}" for line, hosts in self._hosts.items()]


def problems(hosts: Hosts, groups: Groups) -> list[str]:
    """What is wrong, one line each; [] when nothing is."""
    return _survey(hosts, groups)[1]


def build(hosts: Hosts, groups: Groups) -> Fleet:
    """The fleet that the inventory declares. Raises InventoryInvalid with all problems."""
    fleet, found = _survey(hosts, groups)
    if found:
        raise InventoryInvalid(found)
    return fleet


def catalogue(entries: Any) -> tuple[tuple[Model, ...], list[str]]:
    """The models of `cortex_models`, and what is wrong with its entries."""
    models, found = take_entries(Model, entries, _model_stand_ins, called_by="id")
    return models, [f"cortex_models: {line}" for line in found]


def api_keys(entries: Any) -> tuple[tuple[ApiKey, ...], list[str]]:
    """The keys of `gateway_api_keys`, and what is wrong with its entries."""
    keys, found = take_entries(ApiKey, entries, _key_stand_ins, called_by=None)
    return keys, [f"api_keys: {line}" for line in found]


def _survey(hosts: Hosts, groups: Groups) -> tuple[Fleet, list[str]]:
    faults = Faults()
    for name in members(groups):
        faults.add(name, _names(hosts[name]))
        for role in SETTING_UP:
            _, lines = take(role.shape, _without_prefix(hosts[name], role.prefix), {})
            faults.add(name, [f"{role.prefix}{line}" for line in lines])
        faults.add(name, prefix_faults(take(Deployment, _without_prefix(hosts[name], "cortex_"), {})[0]))
    gateways, neurons = [], []
    models, entry_faults = catalogue(_shared_catalogue(hosts, groups))
    for name in groups.get("gateway", ()):
        gateway, lines = _gateway(_without_prefix(hosts[name], "gateway_"))
        faults.add(name, [f"gateway_{line}" for line in lines])
        faults.add(name, key_faults(gateway, models))
        gateways.append(GatewayHost(**gateway.model_dump(), name=name, address=_address(name, hosts)))
    for name in groups.get("neurons", ()):
        neuron, lines = take(Neuron, _without_prefix(hosts[name], "neuron_"), {})
        faults.add(name, [f"neuron_{line}" for line in lines])
        neurons.append(NeuronHost(**neuron.model_dump(), name=name, address=_address(name, hosts)))
    for name, line in outsiders(hosts, groups):
        faults.add(name, [line])
    fleet = Fleet(gateways=tuple(gateways), neurons=tuple(neurons), models=models)
    return fleet, [*_groups(groups), *faults.lines(), *_differing(hosts, groups), *entry_faults, *breaches(fleet)]


def _gateway(values: Mapping[str, Any]) -> tuple[Gateway, list[str]]:
    values = dict(values)
    keys, key_lines = api_keys(values.pop("api_keys", []))
    allowance, allowance_lines = Allowance(), list[str]()
    if isinstance(values.get("anonymous_allowance"), dict):
        allowance, allowance_lines = take_keys(Allowance, values.pop("anonymous_allowance"), {})
    gateway, lines = take(Gateway, values, {})
    lines += [*key_lines, *(f"anonymous_allowance: {line}" for line in allowance_lines)]
    return gateway.model_copy(update={"api_keys": keys, "anonymous_allowance": allowance}), lines


def _model_stand_ins(number: int) -> dict[str, Any]:
    return {"id": f"entry-{number}", "source": "?", "vram_mb": 1}


def _key_stand_ins(number: int) -> dict[str, Any]:
    return {"name": f"entry-{number}", "key": f"{DIGEST_PREFIX}{number:064x}"}


def _groups(groups: Groups) -> Iterator[str]:
    for name in GROUPS:
        if name not in groups:
            others = [other for other in groups if other not in (*GROUPS, *OPTIONAL_GROUPS)]
            yield f"group {name}: no such group{suggestion(name, others)}"
        elif not list(groups[name]):
            yield f"group {name}: has no hosts"


def _names(variables: Mapping[str, Any]) -> Iterator[str]:
    for name, value in variables.items():
        if name.startswith(PREFIXES) and name not in VARIABLES:
            yield f"{name}: no such variable{suggestion(name, VARIABLES)}"
        if name in CONNECTION and isinstance(value, Unreadable):
            yield f"{name}: {value.reason}"


def _without_prefix(variables: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in variables.items() if name.startswith(prefix)}


def _address(name: str, hosts: Hosts) -> str:
    return str(hosts[name].get("ansible_host", name))


def _catalogues(hosts: Hosts, groups: Groups) -> dict[str, Any]:
    """What each gateway and neuron has as `cortex_models`."""
    names = dict.fromkeys(name for group in GROUPS for name in groups.get(group, ()))
    return {name: hosts[name].get("cortex_models", []) for name in names}


def _shared_catalogue(hosts: Hosts, groups: Groups) -> Any:
    found = _catalogues(hosts, groups)
    return next((found[name] for name in found if "cortex_models" in hosts[name]), [])


def _differing(hosts: Hosts, groups: Groups) -> Iterator[str]:
    """Gateways and neurons must mean the same by a model's name, so there is one catalogue for all of them."""
    shared = _shared_catalogue(hosts, groups)
    differing = [name for name, entries in _catalogues(hosts, groups).items() if entries != shared]
    if differing:
        yield f"{_listed(differing)}: cortex_models: is not that of the other hosts; declare it once, in group_vars/all"


def _listed(hosts: list[str]) -> str:
    shown = ", ".join(hosts[:SHOWN_HOSTS])
    if len(hosts) == 1:
        return f"host {shown}"
    return f"hosts {shown}" + (f" and {len(hosts) - SHOWN_HOSTS} more" if len(hosts) > SHOWN_HOSTS else "")
