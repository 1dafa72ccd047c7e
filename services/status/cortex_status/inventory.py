"""An inventory, read in this process with ansible-core: static, dynamic or vaulted.

Owns: the sources, the vault's passwords, and the templating of cortex's own variables (shared_values.py); nothing else
is templated, so a secret or a lookup that only a playbook needs is never touched. Does not own: what the variables mean
(cortex_contracts.inventory). Called by: `cortex inventory check`, `cortex up`, `cortex status`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.fleet import Fleet
from cortex_contracts.inventory.problems import InventoryInvalid, build, problems
from cortex_status.shared_values import SharedValues
from cortex_status.variable_files import stray


class InventoryUnreadable(Exception):
    """A source cannot be read at all: a missing file, broken YAML, a failing script, a vault without its password."""


@dataclass(frozen=True)
class Declared:
    """What the inventory says, templated: each host's variables that are cortex's, and each group's hosts.

    `stray` is a line for each file that belongs to neither.
    """

    hosts: dict[str, dict[str, Any]]
    groups: dict[str, list[str]]
    stray: list[str]


def fleet(declared: Declared) -> Fleet:
    """The fleet that is declared. Raises InventoryInvalid with every problem at once."""
    if declared.stray:
        raise InventoryInvalid([*problems(declared.hosts, declared.groups), *declared.stray])
    return build(declared.hosts, declared.groups)


def read(sources: Sequence[str], vault_password_files: Sequence[str] = ()) -> Declared:
    """What the sources (files, folders, executables) declare, together.

    ANSIBLE_VAULT_PASSWORD_FILE and ansible.cfg count as they do for ansible-playbook. Raises InventoryUnreadable.
    """
    for source in sources:
        if not Path(source).exists():
            raise InventoryUnreadable(f"{source}: no such inventory")
    _prepare()
    from ansible.errors import AnsibleError

    try:
        return _read(list(sources), list(vault_password_files))
    except AnsibleError as error:
        raise InventoryUnreadable(f"{', '.join(sources)}: {error}{_place(error)}") from error


def _place(error: BaseException | None) -> str:
    """Where in which file: ansible-core keeps it beside the message, and of a vars file in the exception's context."""
    while error is not None:
        if place := getattr(error, "_formatted_source_context", None):
            return f"\n{place}"
        error = error.__cause__ or error.__context__
    return ""


@functools.cache
def _prepare() -> None:
    """ansible-core's own start-up, in its order; a second time would warn."""
    import ansible.cli  # noqa: F401  sets controller state up before anything else of ansible is imported
    from ansible import constants
    from ansible.plugins.loader import init_plugin_loader

    constants.INVENTORY_ANY_UNPARSED_IS_FAILED = True  # else a broken file is a warning and an empty fleet
    init_plugin_loader([])


def _read(sources: list[str], vault_password_files: list[str]) -> Declared:
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    loader = DataLoader()
    _unlock(loader, vault_password_files)
    inventory = InventoryManager(loader=loader, sources=sources)
    variables = VariableManager(loader=loader, inventory=inventory)
    HostVars(
        inventory, variables, loader
    )  # makes itself known to the manager, so that a variable may name another host's
    groups = {str(name): [str(host) for host in hosts] for name, hosts in inventory.get_groups_dict().items()}
    shared = SharedValues()
    names = [str(host.name) for host in inventory.get_hosts("all")]
    hosts = {name: _templated(shared, loader, variables.get_vars(host=inventory.get_host(name))) for name in names}
    return Declared(hosts=hosts, groups=groups, stray=stray(map(_folder, sources), hosts, groups))


def _folder(source: str) -> Path:
    path = Path(source).absolute()
    return path if path.is_dir() else path.parent


def _unlock(loader: Any, vault_password_files: list[str]) -> None:
    from ansible import constants
    from ansible.cli import CLI
    from ansible.parsing.vault import VaultSecretsContext

    context = VaultSecretsContext.current(optional=True)  # one a process, and it refuses a second initialisation
    secrets = CLI.setup_vault_secrets(
        loader,
        vault_ids=list(constants.DEFAULT_VAULT_IDENTITY_LIST),
        vault_password_files=vault_password_files,
        auto_prompt=False,
        initialize_context=context is None,
    )
    if context is not None:
        context.secrets = secrets


def _templated(shared: SharedValues, loader: Any, variables: dict[str, Any]) -> dict[str, Any]:
    from ansible.template import Templar

    templar = Templar(loader=loader, variables=variables)
    return shared.of(variables, templar.template)
