"""The inventory's judge: every problem at once, in the inventory's own words."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.problems import InventoryInvalid, build, problems
from cortex_contracts.inventory.variables import Unreadable

GROUPS = {"all": ["gw", "beast", "benjy"], "gateway": ["gw"], "neurons": ["beast", "benjy"]}


def model(**keys: Any) -> dict[str, Any]:
    return {"id": "qwen3-8b", "source": "Qwen/Qwen3-8B", "vram_mb": 18000, **keys}


def fleet_of_three(models: list[Any] | None = None, **variables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hosts gw, beast and benjy, sound but for what the test gives."""
    catalogue = {"cortex_models": [model()] if models is None else models}
    hosts = {name: {"ansible_host": f"10.0.0.{number}", **catalogue} for number, name in enumerate(GROUPS["all"], 10)}
    return {name: values | variables.get(name, {}) for name, values in hosts.items()}


def found(models: list[Any] | None = None, **variables: dict[str, Any]) -> list[str]:
    return problems(fleet_of_three(models, **variables), GROUPS)


def test_a_sound_inventory_becomes_the_fleet_it_declares() -> None:
    """Names come from the inventory, addresses from ansible_host or the name, all else from the variables."""
    hosts = fleet_of_three([model(pinned_on=["beast"])], beast={"neuron_port": 14000, "neuron_devices": [0, 1]})
    del hosts["benjy"]["ansible_host"]
    fleet = build(hosts, GROUPS)
    assert [(neuron.name, neuron.url, neuron.devices) for neuron in fleet.neurons] == [
        ("beast", "http://10.0.0.11:14000", (0, 1)),
        ("benjy", "http://benjy:13131", "all"),
    ]
    assert [gateway.name for gateway in fleet.gateways] == ["gw"]
    assert fleet.models[0].pinned_on == ("beast",)


def test_all_problems_are_reported_at_once() -> None:
    """Faults of values, names and relations stand in one report, none hidden behind another."""
    models = [
        model(vram_mb="lots", pinned_on=["beats"], min_device=2, aliases=["small"]),
        {"id": "llama-70b", "source": "meta-llama/Llama-3.3-70B-Instruct", "harness": "vlm", "aliases": ["small"]},
        "qwen3-4b",
        model(tensor_parallel=4, preload_on=["beast"]),
    ]
    report = found(
        models,
        gw={"gateway_listen": "0.0.0.0:70000", "gateway_eviction_strategy": "random", "gateway_metric_listen": "x"},
        beast={"neuron_port": 70000, "neuron_prot": 1, "neuron_devices": [0, 1], "ansible_host": "10.0.0.12"},
        benjy={"neuron_devices": "cuda", "neuron_port": 13131},
    )
    assert report == [
        "host gw: gateway_metric_listen: no such variable; did you mean gateway_metrics_listen?",
        "host beast: neuron_prot: no such variable; did you mean neuron_port?",
        "host gw: gateway_listen: port 70000 is not in 1 to 65535, is '0.0.0.0:70000'",
        "host gw: gateway_eviction_strategy: should be 'lru' or 'priority', is 'random'",
        "host beast: neuron_port: should be less than or equal to 65535, is 70000",
        "host benjy: neuron_devices: should be such as 'all' or 'cpu' or [0, 1], is 'cuda'",
        "cortex_models: qwen3-8b: vram_mb: should be a whole number, is 'lots'",
        "cortex_models: qwen3-8b: min_device: no such key; did you mean min_devices?",
        "cortex_models: llama-70b: harness: should be 'torch' or 'vllm', is 'vlm'; did you mean vllm?",
        "cortex_models: llama-70b: vram_mb: is missing (Memory the model and its KV cache may take, over all devices)",
        "cortex_models: entry 3: should be keys and values, is 'qwen3-4b'",
        "host benjy: has the address of host beast: http://10.0.0.12:13131 (ansible_host, neuron_port)",
        "cortex_models: qwen3-8b: id: is there twice",
        "cortex_models: llama-70b: aliases: 'small' is also an alias of qwen3-8b",
        "cortex_models: qwen3-8b: pinned_on: 'beats' is no host of the group neurons; did you mean beast?",
        "cortex_models: qwen3-8b: tensor_parallel: is 4, but host beast has 2 in neuron_devices",
    ]


def test_an_invalid_inventory_is_no_fleet() -> None:
    """`build` raises with the same lines that `problems` returns."""
    hosts = fleet_of_three(beast={"neuron_prot": 1})
    with pytest.raises(InventoryInvalid) as raised:
        build(hosts, GROUPS)
    assert raised.value.problems == problems(hosts, GROUPS)


def test_true_is_not_taken_for_one() -> None:
    """YAML's `yes` and `on` are true; only what is true or false may be that."""
    report = found([model(vram_mb=True)], beast={"neuron_port": True, "neuron_drained": True})
    assert report == [
        "host beast: neuron_port: should not be true or false, is True",
        "cortex_models: qwen3-8b: vram_mb: should not be true or false, is True",
    ]


def test_hosts_that_share_a_fault_share_its_line() -> None:
    """A wrong value in group_vars is one problem, however many hosts have it."""
    names = [f"n{number}" for number in range(7)]
    hosts = {name: {"neuron_port": 0} for name in names} | {"gw": {}}
    report = problems(hosts, {"gateway": ["gw"], "neurons": names})
    assert report == [
        "hosts n0, n1, n2, n3 and 3 more: neuron_port: should be greater than or equal to 1, is 0",
    ]


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ({"gateway": ["gw"], "neuron": ["beast"]}, "group neurons: no such group; did you mean neuron?"),
        ({"gateway": ["gw"]}, "group neurons: no such group"),
        ({"gateway": ["gw"], "neurons": []}, "group neurons: has no hosts"),
        ({"neurons": ["beast"]}, "group gateway: no such group"),
    ],
)
def test_a_missing_or_empty_group_is_named(groups: dict[str, list[str]], line: str) -> None:
    """A fleet has both groups, and a misspelt one is recognised."""
    assert problems({"gw": {}, "beast": {}}, groups) == [line]


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ([model(), model(id="b", aliases=["qwen3-8b"])], "b: aliases: 'qwen3-8b' is the id of another model"),
        ([model(aliases=["qwen3-8b"])], "qwen3-8b: aliases: 'qwen3-8b' is its own id"),
        ([model(preload_on=["gw"])], "qwen3-8b: preload_on: 'gw' is no host of the group neurons"),
        (
            [model(tensor_parallel=2, min_devices=1)],
            "qwen3-8b: min_devices: is 1, but tensor_parallel splits it over 2",
        ),
        ([model(min_devices=2)], "qwen3-8b: min_devices: is 2, but tensor_parallel splits it over 1"),
        (
            [model(tensor_parallel=2, harness="vllm")],
            "qwen3-8b: harness: is 'vllm', but no host has a neuron_vllm_bin",
        ),
        ([model(pipeline_parallel=2)], "qwen3-8b: pipeline_parallel: is for harness vllm, and harness is 'torch'"),
        ([model(engine_args=["-x"])], "qwen3-8b: engine_args: is for harness vllm, and harness is 'torch'"),
        (
            [model(task="embed", quant="int8")],
            "qwen3-8b: quant: is 'int8', which is not for a model with task embed",
        ),
        (
            [model(task="rerank", tensor_parallel=2)],
            "qwen3-8b: tensor_parallel: is 2, which is not for a model with task rerank",
        ),
        ([model(id="a b")], "a b: id: should be such as 'qwen3-8b' or 'Qwen/Qwen3-8B', is 'a b'"),
        ([{"source": "x", "vram_mb": 1}], "entry 1: id: is missing (Its name; what clients call it)"),
        ("qwen3-8b", "should be a list of entries, is 'qwen3-8b'"),
        ([model(harnes="torch")], "qwen3-8b: harnes: no such key; did you mean harness?"),
        ([model(), Unreadable("'more' is undefined")], "entry 2: 'more' is undefined"),
        ([model(id=Unreadable("'a' is undefined"))], "entry 1: id: 'a' is undefined"),
        ([model(aliases=["b", Unreadable("'a' is undefined")])], "qwen3-8b: aliases.1: 'a' is undefined"),
        (
            [model(sampling={"temprature": 1})],
            "qwen3-8b: sampling.temprature: should be 'temperature', 'top_p', 'top_k', 'min_p' or "
            "'repetition_penalty', is 'temprature'; did you mean temperature?",
        ),
    ],
)
def test_a_fault_in_the_catalogue_names_the_model_and_the_key(entries: list[Any], line: str) -> None:
    """Each line says which entry, which key, and what is there."""
    assert found(entries) == [f"cortex_models: {line}"]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"gw": {"gateway_metrics_listen": "10.0.0.10:31313"}},
            "host gw: gateway_metrics_listen: 10.0.0.10:31313 is also that of gateway_listen: 0.0.0.0:31313",
        ),
        ({"beast": {"neuron_devices": [1, 1]}}, "host beast: neuron_devices: names a device twice: [1, 1]"),
        (
            {"beast": {"neuron_devices": []}},
            "host beast: neuron_devices: should be such as 'all' or 'cpu' or [0, 1], is []",
        ),
        (
            {"gw": {"cortex_service_manager": "sytemd"}},
            "host gw: cortex_service_manager: should be 'systemd' or 'none', is 'sytemd'; did you mean systemd?",
        ),
        ({"gw": {"cortex_model": []}}, "host gw: cortex_model: no such variable; did you mean cortex_models?"),
        ({"gw": {"gateway_idle_timeout_s": 0}}, "host gw: gateway_idle_timeout_s: should be greater than 0, is 0"),
        ({"beast": {"neuron_port": Unreadable("is undefined")}}, "host beast: neuron_port: is undefined"),
        ({"beast": {"ansible_host": Unreadable("no password")}}, "host beast: ansible_host: no password"),
        (
            {"beast": {"neuron_environment": {"A": "a", "B": Unreadable("'b' is undefined")}}},
            "host beast: neuron_environment.B: 'b' is undefined",
        ),
        (
            {"gw": {"cortex_models": [model(vram_mb=1)]}},
            "hosts beast, benjy: cortex_models: is not that of the other hosts; declare it once, in group_vars/all",
        ),
    ],
)
def test_a_fault_of_a_host_names_the_host_and_the_variable(variables: dict[str, dict[str, Any]], line: str) -> None:
    """Each line says which host, which variable, what was expected and what is there."""
    assert found(**variables) == [line]


def test_ports_may_be_equal_on_different_addresses() -> None:
    """Only listeners that would collide are a problem."""
    assert not found(gw={"gateway_listen": "10.0.0.10:8000", "gateway_metrics_listen": "127.0.0.1:8000"})


def test_two_names_of_one_gateway_are_told() -> None:
    """Of an address and port; two gateways of one host at different ports are two."""
    hosts = {name: {"ansible_host": "10.0.0.1"} for name in ("gw", "gw2")} | {"beast": {}}
    groups = {"gateway": ["gw", "gw2"], "neurons": ["beast"]}
    assert problems(hosts, groups) == [
        "host gw2: has the address of host gw: 10.0.0.1, 0.0.0.0:31313 (ansible_host, gateway_listen)"
    ]
    hosts["gw2"] |= {"gateway_listen": "0.0.0.0:31323"}
    assert problems(hosts, groups) == []


def test_the_catalogue_is_one_for_gateways_and_neurons_alone() -> None:
    """Other hosts need none."""
    hosts = fleet_of_three() | {"watch": {}, "nas": {}}
    assert problems(hosts, GROUPS | {"monitoring": ["watch"]}) == []


def test_a_gateway_may_not_take_the_port_of_a_neuron_on_the_same_host() -> None:
    """A host in both groups has three listeners."""
    hosts = {"one": {"gateway_listen": "0.0.0.0:13131"}}
    assert problems(hosts, {"gateway": ["one"], "neurons": ["one"]}) == [
        "host one: neuron_port: 0.0.0.0:13131 is also that of gateway_listen: 0.0.0.0:13131"
    ]


def test_a_model_too_wide_for_every_host_is_a_problem_even_without_pins() -> None:
    """Where all hosts list their devices it is known that nothing can ever take the model."""
    lists = {"beast": {"neuron_devices": [0, 1]}, "benjy": {"neuron_devices": [0]}}
    wide = [model(tensor_parallel=4)]
    expected = "cortex_models: qwen3-8b: tensor_parallel: is 4, but no host has more than 2 in neuron_devices"
    assert found(wide, **lists) == [expected]
    assert not found(wide, beast=lists["beast"])


def test_a_model_of_several_hosts_is_shared_evenly_by_hosts_that_find_each_other() -> None:
    """Of its devices each host has as many, and one host at least must know the Ray cluster."""
    spread = model(harness="vllm", tensor_parallel=2, pipeline_parallel=2, ray_hosts=2)
    lists = {"beast": {"neuron_devices": [0, 1], "neuron_vllm_bin": "/v"}, "benjy": {"neuron_devices": [0]}}
    expected = "cortex_models: qwen3-8b: ray_hosts: is 2, but no host has a neuron_vllm_ray_address"
    assert found([spread], **lists) == [expected]
    lists["beast"]["neuron_vllm_ray_address"] = "10.0.0.5:6379"
    assert not found([spread], **lists)
    place = "cortex_models: qwen3-8b"
    assert found([spread | {"ray_hosts": 3, "min_devices": 2}], **lists) == [
        f"{place}: ray_hosts: is 3, over which its 4 devices cannot be shared evenly"
    ]
    assert found([spread | {"ray_hosts": 1, "min_devices": 2}], beast={"neuron_vllm_bin": "/v"}) == [
        f"{place}: min_devices: is 2, but tensor_parallel * pipeline_parallel splits it over 4"
    ]


def test_drafts_are_found_by_a_range_of_lengths() -> None:
    """The method has to be named; of the lengths the least is not above the most."""
    assert not found([model(speculative={"method": "ngram"})])
    place = "cortex_models: qwen3-8b: speculative"
    assert found([model(speculative={"method": "ngram", "prompt_lookup_max": 1})]) == [
        f"{place}.prompt_lookup_min: is 2, more than prompt_lookup_max, 1"
    ]
    assert found([model(speculative={"tokens": 4})]) == [
        f"{place}.method: is missing",
        f"{place}.tokens: no such key, is 4",
    ]
    assert found([model(speculative="ngram")]) == [f"{place}: should be keys and values, is 'ngram'"]


def test_a_draft_model_is_a_source_of_its_own() -> None:
    """The method needs one, and no other has one; what another model is called by is not where its files are."""
    draft = {"method": "draft_model", "model": "org/small"}
    assert not found([model(speculative=draft)])
    place = "cortex_models: qwen3-8b: speculative"
    assert found([model(speculative={"method": "draft_model"})]) == [
        f"{place}.model: is missing, which method draft_model needs"
    ]
    assert found([model(speculative={"method": "ngram", "model": "org/small"})]) == [
        f"{place}.model: is for method draft_model, and method is 'ngram'"
    ]
    assert found([model(speculative=draft | {"prompt_lookup_min": 3})]) == [
        f"{place}.prompt_lookup_min: is for method ngram, and method is 'draft_model'"
    ]
    small = {"id": "small", "source": "org/small", "vram_mb": 1}
    assert not found([model(speculative=draft), small])
    assert found([model(speculative=draft | {"model": "small"}), small]) == [
        f"{place}.model: should be a source, is the id of one with source 'org/small'"
    ]


def test_what_the_neuron_tells_a_vllm_server_is_no_engine_argument() -> None:
    """Where it listens and what its model is called are not for the inventory to change."""
    asked = model(harness="vllm", engine_args=["--enforce-eager", "--port=1"])
    assert found([asked], beast={"neuron_vllm_bin": "/v"}) == [
        "cortex_models: qwen3-8b: engine_args: --port=1 is the neuron's to say, is ['--enforce-eager', '--port=1']"
    ]


def test_a_prefix_that_leaves_no_room_for_sockets_is_a_problem() -> None:
    """A Unix socket's path has 107 bytes at most, and an engine group's socket lies below the prefix."""
    without_systemd = {"cortex_service_manager": "none"}
    assert not found(beast=without_systemd | {"cortex_prefix": "/" + "a" * 85})
    [line] = found(beast=without_systemd | {"cortex_prefix": "/" + "a" * 86})
    assert line.startswith("host beast: cortex_prefix: should be 1 bytes shorter for the sockets below it")


def test_a_prefix_under_systemd_is_a_problem() -> None:
    """systemd would not find the units there."""
    [line] = found(beast={"cortex_prefix": "/srv/cortex"})
    assert line.startswith("host beast: cortex_prefix: should be empty under cortex_service_manager systemd")


def test_a_faulty_environment_never_shows_its_value() -> None:
    """Environments hold tokens, and reports end in logs."""
    [line] = found(beast={"neuron_environment": {"HF_TOKEN": 12345}})
    assert line == "host beast: neuron_environment.HF_TOKEN: should be text, is a int"
    for token, kind in (("hf canary", "str"), ("", "str"), ("hf\ncanary", "str"), (["canary"], "list")):
        [line] = found(beast={"neuron_hub_token": token})
        assert line.startswith("host beast: neuron_hub_token: should be ")
        assert line.endswith(f", is a {kind}")
        assert "canary" not in line
    [line] = found(beast={"neuron_environment": "HF_TOKEN=12345"})
    assert "12345" not in line


def test_a_long_value_is_shown_in_part() -> None:
    """One line stays one line."""
    [line] = found(gw={"gateway_eviction_strategy": "lru" * 100})
    assert len(line) < 200
