"""The schema's judgement and defaults, for site.yml and the roles' templates.

Owns: getting Ansible's values across to plain ones. Does not own: what is right (cortex_contracts.inventory).
Works with ansible-core 2.19 to 2.21, whose lazy and tagged values `plain` undoes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.template import Templar
from pydantic import SecretStr

from cortex_contracts.inventory.clients import Allowance, KeyEntry, digest_of
from cortex_contracts.inventory.deployment import Deployment, is_address
from cortex_contracts.inventory.fleet import Fleet
from cortex_contracts.inventory.problems import InventoryInvalid, api_keys, build, catalogue, problems
from cortex_contracts.inventory.variables import Hosts, plain
from cortex_status.bundle.command import Bundle
from cortex_status.host_check import answers, judgement
from cortex_status.host_check.questions import Question, questions
from cortex_status.model_files import FilesMissing, bringing
from cortex_status.scrape_targets import Targets, scrape_targets
from cortex_status.shared_values import SharedValues
from cortex_status.variable_files import stray


def cortex_loaded(value: Any) -> Any:
    """The value itself. A play that says so in its own words has this module imported in the process that every task's
    is a fork of: once, and not for each task and host that uses one of these filters (a quarter of a second)."""
    return value


def cortex_problems(groups: Mapping[str, Any], hostvars: Any) -> list[str]:
    """Everything that is wrong with the inventory, a line each; [] when nothing is."""
    hosts, folders = _hosts(groups, hostvars), {hostvars.raw_get(name).get("inventory_dir") for name in groups["all"]}
    found = stray([Path(folder) for folder in sorted(filter(None, folders))], hosts, map(str, groups))
    return problems(hosts, plain(groups)) + found


def cortex_neurons(groups: Mapping[str, Any], hostvars: Any) -> list[dict[str, str]]:
    """Every neuron's name and URL, as the gateway's [[neurons]]."""
    return [{"name": neuron.name, "url": neuron.url} for neuron in _fleet(groups, hostvars).neurons]


def cortex_targets(groups: Mapping[str, Any], hostvars: Any) -> list[Targets]:
    """Every gateway's and neuron's metrics, as Prometheus' file_sd_configs takes them."""
    return scrape_targets(_fleet(groups, hostvars))


def cortex_sources(groups: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where neurons are asked from by gateways and Prometheus: each one's address, and whether that is a name yet."""
    names = [name for group in ("gateway", "monitoring") for name in groups.get(group, [])]
    addresses = [str(plain(hostvars[name].get("ansible_host", name))) for name in names]
    return [{"address": address, "is_name": not is_address(address)} for address in dict.fromkeys(addresses)]


def cortex_catalogue(entries: Any) -> list[dict[str, Any]]:
    """The entries of cortex_models with every key as TOML writes it: nothing for none, dotted keys for a table."""
    models, found = catalogue(plain(entries))
    if found:
        raise AnsibleFilterError("\n".join(found))
    return [_dotted(model.model_dump(mode="json", exclude_none=True)) for model in models]


def cortex_model_files(entries: Any, ids: Any, folder: Any, hub: Any, home: Any) -> dict[str, list[Any]]:
    """What of the models is copied from the folder of this machine to where on a host, and what cannot be."""
    known, found = catalogue(plain(entries))
    if found:
        raise AnsibleFilterError("\n".join(found))
    wanted, models, missing = set(plain(list(ids))), [], []
    here = Path(plain(folder)).expanduser().absolute() if plain(folder) else None
    for model in known:
        if model.id not in wanted:
            continue
        try:
            for source in model.sources:
                one = model.model_copy(update={"source": source})
                models.append(bringing(one, here, plain(hub), plain(home)).model_dump(mode="json"))
        except FilesMissing as reason:
            missing.append(f"model {model.id}: {reason}")
    return {"models": models, "problems": missing}


def cortex_questions(groups: Mapping[str, Any], hostvars: Any) -> dict[str, Any]:
    """What ansible/check.yml asks each host."""
    return {name: asked.model_dump(mode="json") for name, asked in _questions(groups, hostvars).items()}


def cortex_kinds(groups: Mapping[str, Any], hostvars: Any, results: Any) -> list[str]:
    """What the hosts would install, as `cortex bundle` is told; results are of the task that asked, by host."""
    return judgement.kinds(_questions(groups, hostvars), _answers(results))


def cortex_host_problems(groups: Mapping[str, Any], hostvars: Any, results: Any, bundle: str) -> list[str]:
    """Everything that is wrong with the hosts, a line each; `bundle` is what `cortex bundle` printed."""
    needs = judgement.needs(Bundle.model_validate_json(bundle)) if bundle else {}
    return judgement.problems(_fleet(groups, hostvars), _questions(groups, hostvars), _answers(results), needs)


def _questions(groups: Mapping[str, Any], hostvars: Any) -> dict[str, Question]:
    deployments = {name: _deployment(variables) for name, variables in _hosts(groups, hostvars).items()}
    return questions(_fleet(groups, hostvars), deployments)


def _deployment(variables: Mapping[str, Any]) -> Deployment:
    told = {field: variables[f"cortex_{field}"] for field in Deployment.model_fields if f"cortex_{field}" in variables}
    return Deployment.model_validate(plain(told))


def _answers(results: Any) -> dict[str, answers.Answer | answers.Silence]:
    return {str(name): answers.answer(result) for name, result in plain(results).items()}


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


def _dotted(entry: Mapping[str, Any]) -> dict[str, Any]:
    tables = {key: value for key, value in entry.items() if isinstance(value, dict)}
    inner = {f"{key}.{name}": value for key, table in tables.items() for name, value in table.items()}
    return {key: value for key, value in entry.items() if key not in tables} | inner


def _fleet(groups: Mapping[str, Any], hostvars: Any) -> Fleet:
    try:
        return build(_hosts(groups, hostvars), plain(groups))
    except InventoryInvalid as invalid:
        raise AnsibleFilterError(str(invalid)) from invalid


def _hosts(groups: Mapping[str, Any], hostvars: Any) -> Hosts:
    shared = SharedValues()
    return {str(name): _variables(name, hostvars, shared) for name in groups["all"]}


def _variables(name: str, hostvars: Any, shared: SharedValues) -> dict[str, Any]:
    """In place of hostvars[name], whose values are whole or not at all, and which knows no other host."""
    raw = hostvars.raw_get(name)
    templar = Templar(loader=hostvars._loader, variables={**raw, "hostvars": hostvars})
    return shared.of(raw, templar.template)
