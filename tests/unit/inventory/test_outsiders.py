"""Hosts with variables of cortex and in no group of it: nothing would be done with them, so it is said."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.outsiders import outsiders

GROUPS = {"all": ["gw", "beast", "attic"], "gateway": ["gw"], "neurons": ["beast"], "rack1": ["beast", "attic"]}
NO_USE = "is of no use to a host in none of the groups gateway, neurons, monitoring"


def found(attic: dict[str, Any], groups: dict[str, list[str]] = GROUPS, **everywhere: Any) -> list[tuple[str, str]]:
    """What is said of host attic beside a gateway and a neuron that have `everywhere`."""
    hosts = {"gw": everywhere, "beast": everywhere | {"neuron_port": 14000}, "attic": everywhere | attic}
    return [*outsiders(hosts, groups)]


def test_a_variable_given_to_a_host_that_nothing_is_done_with_is_told() -> None:
    """All of them in one line."""
    variables = {"neuron_devices": [0], "cortex_python": "/p", "ansible_host": "192.0.2.1"}
    assert found(variables) == [("attic", f"neuron_devices, cortex_python: {NO_USE}")]


def test_the_group_that_was_perhaps_meant_is_told() -> None:
    """By the name of the one that it is in."""
    assert found({"neuron_devices": [0]}, GROUPS | {"neuron": ["attic"]}) == [
        ("attic", f"neuron_devices: {NO_USE}; did you mean neurons?")
    ]


@pytest.mark.parametrize("value", ["/srv/attic", "/srv/all"])
def test_what_every_host_has_is_told_of_none(value: str) -> None:
    """group_vars/all reaches all hosts, also with a template that is each one's own."""
    assert not found({"cortex_prefix": value}, cortex_prefix="/srv/all")


def test_what_a_host_shares_with_others_of_its_rack_is_not_told() -> None:
    """A group may hold other hosts, too; a value of its own is another matter."""
    assert not found({"neuron_port": 14000})
    assert found({"neuron_port": 14001})


def test_a_host_of_the_optional_group_is_no_outsider() -> None:
    """It has a role of its own."""
    assert not found({"monitoring_grafana_dir": "/x"}, GROUPS | {"monitoring": ["attic"]})


def test_nothing_is_told_while_a_group_is_missing() -> None:
    """Then its hosts are all outside, and one line says why."""
    assert not found({"neuron_devices": [0]}, {name: GROUPS[name] for name in ("all", "gateway")})
