"""What is wrong with hosts, from what they have answered."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.deployment import Deployment
from cortex_contracts.inventory.fleet import Fleet, GatewayHost, Model, NeuronHost
from cortex_status.host_check.answers import Answer, Silence, answer
from cortex_status.host_check.judgement import Need, kinds, problems
from cortex_status.host_check.questions import questions

KIND = "neuron:3.11:x86_64"


def fleet(*models: Model, **neuron: Any) -> Fleet:
    return Fleet(
        gateways=(GatewayHost(name="gw", address="192.0.2.1"),),
        neurons=(NeuronHost(name="n1", address="192.0.2.2", **neuron),),
        models=models,
    )


def told(**changed: Any) -> Answer:
    """A host on which all is well."""
    fit = {
        "asked_at": 1000.0, "time": 1001.0, "python": (3, 11), "python_reason": "", "machine": "x86_64",
        "systemd": True, "active_units": (), "room_bytes": 10**12, "dependencies": (), "taken": {}, "executable": {},
        "present": {}, "unresolved": (), "neurons": {},
        "gpus": {"on_bus": 0, "driven": None, "reason": "has no nvidia-smi"},
    }  # fmt: skip
    return Answer.model_validate(fit | changed)


def found(
    fleet: Fleet, needs: dict[str, Need] | None = None, gw: Answer | Silence | None = None, **changed: Any
) -> list[str]:
    """What is said of the neuron's host, and of the gateway's."""
    asked = questions(fleet, {"gw": Deployment(), "n1": Deployment()})
    return problems(fleet, asked, {"gw": gw or told(), "n1": told(**changed)}, needs or {})


def test_nothing_is_said_of_hosts_that_are_fit() -> None:
    """Also where the room is known."""
    assert found(fleet(), {KIND: Need("abc", 10**9)}) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"python": (3, 9)}, "cortex_python: should be Python 3.11 or later, /usr/bin/python3 is 3.9"),
        (
            {"python": None, "python_reason": "No such file"},
            "cortex_python: should be Python 3.11 or later, /usr/bin/python3 does not run: No such file",
        ),
        ({"systemd": False}, "cortex_service_manager: should be what runs the host, is systemd, which does not"),
        ({"time": 1100.0}, "clock: should be this machine's within 10 s, is 100 s ahead"),
        ({"time": 940.0}, "clock: should be this machine's within 10 s, is 60 s behind"),
        (
            {"taken": {13131: {"by": "nginx (process 7)", "ours": False}}},
            "neuron_port: should be a free port, 13131 is taken by nginx (process 7)",
        ),
        (
            {"taken": {13131: {"by": "another program", "ours": None}}},
            "neuron_port: should be a free port, 13131 is taken by another program",
        ),
        ({"unresolved": ("gw.lan",)}, "name gw.lan: should have an address here, has none"),
    ],
)
def test_a_problem_is_told_with_host_expectation_and_finding(changed: dict[str, Any], line: str) -> None:
    """In the words of the inventory's check."""
    assert found(fleet(), **changed) == [f"host n1: {line}"]


@pytest.mark.parametrize(
    "changed",
    [
        {"taken": {13131: {"by": "cortex-neuron", "ours": True}}},
        {"taken": {13131: {"by": "another program", "ours": None}}, "active_units": ("cortex-neuron",)},
        {"taken": {22: {"by": "sshd", "ours": False}}},
    ],
)
def test_a_port_that_is_ours_is_no_problem(changed: dict[str, Any]) -> None:
    """Nor is one that nobody asks for; a probe that may not see whose it is believes the unit."""
    assert found(fleet(), **changed) == []


def test_room_is_judged_where_it_will_be_taken() -> None:
    """Five times the archive, of the host's own kind; not where its content is installed already."""
    needs = {KIND: Need("abc", 10**9)}
    line = "host n1: /opt/cortex: should have 5000 MB free, has 4000 MB"
    assert found(fleet(), needs, room_bytes=4 * 10**9) == [line]
    assert found(fleet(), needs, room_bytes=4 * 10**9, dependencies=("old",)) == [line]
    assert found(fleet(), needs, room_bytes=4 * 10**9, dependencies=("old", "abc")) == []
    assert found(fleet(), {"neuron:3.12:x86_64": Need("abc", 10**9)}, room_bytes=0) == []


@pytest.mark.parametrize(
    ("devices", "gpus", "line"),
    [
        ("all", {"on_bus": 0, "driven": None}, None),
        ("cpu", {"on_bus": 2, "driven": None, "reason": "has no nvidia-smi"}, None),
        ("all", {"on_bus": 2, "driven": 2}, None),
        ("all", {"on_bus": 0, "driven": 2}, None),
        (
            "all",
            {"on_bus": 2, "driven": None, "reason": "has no nvidia-smi"},
            "NVIDIA driver: should answer for 2 GPUs, has no nvidia-smi",
        ),
        (
            "all",
            {"on_bus": 1, "driven": None, "reason": "says: Driver/library version mismatch"},
            "NVIDIA driver: should answer for 1 GPUs, says: Driver/library version mismatch; reboot it",
        ),
        ("all", {"on_bus": 3, "driven": 2}, "NVIDIA driver: should have all 3 GPUs of the host, has 2"),
        ([0, 2], {"on_bus": 2, "driven": 2}, "neuron_devices: should be of the host's 2 GPUs, is [0, 2]"),
        ([0], {"on_bus": 0, "driven": None}, "neuron_devices: should be of the host's 0 GPUs, is [0]"),
    ],
)
def test_the_driver_answers_for_the_gpus_that_are_there(devices: Any, gpus: dict[str, Any], line: str | None) -> None:
    """Where a neuron is to use them; a container shows none on its bus."""
    assert found(fleet(devices=devices), gpus=gpus) == ([f"host n1: {line}"] if line else [])


@pytest.mark.parametrize(
    ("contact", "runs", "line"),
    [
        ({"outcome": "open"}, True, None),
        ({"outcome": "refused", "reason": "refuses the connection"}, False, None),
        ({"outcome": "refused", "reason": "refuses the connection"}, True, "refuses the connection"),
        ({"outcome": "failed", "reason": "is not: timed out"}, True, "is not: timed out"),
        (
            {"outcome": "failed", "reason": "is not: timed out"},
            False,
            "is not: timed out (no neuron runs there yet; a firewall may be shut)",
        ),
        ({"outcome": "unresolved", "reason": "has no address here: x"}, False, "has no address here: x"),
    ],
)
def test_a_gateway_reaches_each_neuron(contact: dict[str, str], runs: bool, line: str | None) -> None:
    """A host that refuses is there: a problem only once a neuron runs on it."""
    taken = {13131: {"by": "cortex-neuron", "ours": True}} if runs else {}
    expected = f"host gw: neuron n1: should be reachable at 192.0.2.2:13131, {line}"
    assert found(fleet(), gw=told(neurons={"n1": contact}), taken=taken) == ([expected] if line else [])


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"preload_on": ["n1"]}, "host n1: model m: should have /srv/m here, where the inventory preloads it, has not"),
        ({"pinned_on": ["n1"]}, "host n1: model m: should have /srv/m here, where the inventory pins it, has not"),
        ({}, "cortex_models: m: source /srv/m should be on a neuron, is on none"),
    ],
)
def test_local_sources_are_where_they_are_wanted(wanted: dict[str, Any], line: str) -> None:
    """Or on any neuron, where the inventory names none."""
    models = fleet(Model(id="m", source="/srv/m", vram_mb=1, **wanted))
    assert found(models, present={"m": False}) == [line]
    assert found(models, present={"m": True}) == []


def test_a_source_is_not_missed_while_a_neuron_has_not_answered() -> None:
    """It may be there."""
    here = fleet(Model(id="m", source="/srv/m", vram_mb=1))
    asked = questions(here, {"gw": Deployment(), "n1": Deployment()})
    assert problems(here, asked, {"gw": told()}, {}) == []
    silent = Silence(what="connection", expected="be reachable for Ansible", found="timed out")
    assert problems(here, asked, {"n1": silent}, {}) == [
        "host n1: connection: should be reachable for Ansible, timed out"
    ]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"unreachable": True, "msg": "Failed to connect\nto the host"}, "Failed to connect to the host"),
        ({"rc": 127, "stdout": "", "stderr": "python3: not found"}, "python3: not found"),
        ({"rc": 0, "stdout": '{"time": 1}'}, '{"time": 1}'),
        ({}, "says nothing"),
    ],
)
def test_a_host_that_does_not_answer_says_why(result: dict[str, Any], words: str) -> None:
    """Ansible's words, or those of what was to run."""
    silence = answer(result)
    assert isinstance(silence, Silence)
    assert silence.found == words


def test_an_answer_is_found_among_what_else_is_printed() -> None:
    """A shell may greet."""
    assert answer({"stdout": f"Welcome!\n{told().model_dump_json()}\n"}) == told()


def test_kinds_of_hosts_are_what_a_bundle_is_built_for() -> None:
    """Each once; a Python that will not do has none."""
    asked = questions(fleet(), {"gw": Deployment(), "n1": Deployment()})
    assert kinds(asked, {"gw": told(), "n1": told()}) == ["gateway:3.11:x86_64", KIND]
    assert kinds(asked, {"gw": told(python=(3, 9)), "n1": Silence(what="", expected="", found="")}) == []


def test_a_host_is_asked_what_concerns_it() -> None:
    """Gateways for neurons, neurons for sources; paths are those of a daemon that systemd has started."""
    sources = ("/srv/a", "~/b", "./c", "org/d")
    models = [Model(id=str(number), source=source, vram_mb=1) for number, source in enumerate(sources)]
    asked = questions(fleet(*models, vllm_bin="/opt/v"), {"gw": Deployment(), "n1": Deployment()})
    assert asked["n1"].sources == {"0": "/srv/a", "1": "/var/lib/neuron/b", "2": "/./c"}
    assert (asked["n1"].neurons, asked["n1"].programs) == ((), {"neuron_vllm_bin": "/opt/v"})
    assert ([peer.name for peer in asked["gw"].neurons], asked["gw"].sources) == (["n1"], {})
    assert [port.number for port in asked["gw"].ports] == [31313, 31314]
